"""Allowed values of the Host and Origin headers: protects a server without API keys from web pages.

With DNS rebinding, the page of any site can make a browser resolve the site's name to 127.0.0.1. The browser then
treats this server's responses as the site's own, but its Host header still has the site's name.
"""

from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.bodies import parse_body_headers, reject
from app.utils.errors import HostNotAllowed, OriginNotAllowed

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
ANY = "*"
PROBES = frozenset({"/health/live", "/health/ready"})
"""Orchestrators send an IP address as the Host. These responses contain no data of an account."""


class HostGuard:
    """ASGI middleware. Needs ``hosts`` in the lifespan's state: the allowed names without ports, or None for all."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hosts: frozenset[str] | None = scope["state"]["hosts"] if scope["type"] == "http" else None
        if hosts is None or scope["path"] in PROBES or (error := _check(scope["headers"], hosts)) is None:
            await self._app(scope, receive, send)
            return
        headers = parse_body_headers(scope["headers"])
        if headers.length or headers.chunked:
            await reject(error, scope, receive, send)
            return
        raise error


def allowed_hosts(setting: str | None) -> frozenset[str] | None:
    """The names in ALLOWED_HOSTS and the loopback names; None if it is not set or contains ``*``."""
    names = {name.strip().strip("[]").lower() for name in (setting or ANY).split(",") if name.strip()}
    return None if ANY in names else LOOPBACK | names


def _check(headers: Iterable[tuple[bytes, bytes]], hosts: frozenset[str]) -> HostNotAllowed | OriginNotAllowed | None:
    found = {name: value.decode("latin-1") for name, value in headers if name in (b"host", b"origin")}
    host = found.get(b"host", "")
    if _name(f"//{host}") not in hosts:
        return HostNotAllowed(
            f"The Host {host[:255]!r} is not allowed. Call this server as localhost, or add the name to ALLOWED_HOSTS."
        )
    origin = found.get(b"origin")
    if origin is not None and _name(origin) not in hosts:
        return OriginNotAllowed(
            f"The Origin {origin[:255]!r} is not allowed to call this server. Add its host to ALLOWED_HOSTS."
        )
    return None


@lru_cache(64)
def _name(url: str) -> str | None:
    """The host of a URL without port and brackets; None if it has no host."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
