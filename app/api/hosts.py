"""By which names a server may be called: keeps web pages that a user has open from calling one that asks for no keys.

A page of any site can send a browser to a name whose address it changes to 127.0.0.1 (DNS rebinding). The browser takes
the answers for that site's own; the Host that it sends still is that name.
"""

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.bodies import announced, refuse
from app.utils.errors import HostNotAllowed, OriginNotAllowed

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
ANY = "*"
PROBES = frozenset({"/health/live", "/health/ready"})
"""Orchestrators send an IP address as the Host. The answers hold nothing of an account."""


class HostGuard:
    """Plain ASGI. Needs ``hosts`` in the lifespan's state: the allowed names, without ports; None allows all."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hosts: frozenset[str] | None = scope["state"]["hosts"] if scope["type"] == "http" else None
        if hosts is None or scope["path"] in PROBES or (error := _refusal(scope["headers"], hosts)) is None:
            await self._app(scope, receive, send)
            return
        head = announced(scope["headers"])
        if head.length or head.chunked:
            await refuse(error, scope, receive, send)
            return
        raise error


def allowed_hosts(setting: str | None) -> frozenset[str] | None:
    """What ALLOWED_HOSTS stands for: its names and the loopback's; None where it is unset or allows any."""
    names = {name.strip().strip("[]").lower() for name in (setting or ANY).split(",") if name.strip()}
    return None if ANY in names else LOOPBACK | names


def _refusal(headers: Iterable[tuple[bytes, bytes]], hosts: frozenset[str]) -> HostNotAllowed | OriginNotAllowed | None:
    found = {name: value.decode("latin-1") for name, value in headers if name in (b"host", b"origin")}
    host = found.get(b"host", "")
    if _name(f"//{host}") not in hosts:
        return HostNotAllowed(
            f"This server is not to be called as {host[:255]!r}: call it as localhost, or allow that name with "
            "ALLOWED_HOSTS."
        )
    origin = found.get(b"origin")
    if origin is not None and _name(origin) not in hosts:
        return OriginNotAllowed(
            f"Pages of {origin[:255]!r} are not to call this server: allow their host with ALLOWED_HOSTS."
        )
    return None


def _name(url: str) -> str | None:
    """Its host, without port and brackets; None where there is none."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
