"""URIs in settings, which can contain a password."""

import re


def printable(uri: str) -> str:
    """Only the scheme and the host: no user, password, path or query. Without the host if it is ambiguous."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri if uri.startswith("unix:") else "(an address without a scheme)"
    authority, tail = re.match(r"([^/?#]*)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
    return f"{scheme}://..." if "@" in tail else f"{scheme}://{authority.rpartition('@')[2]}"


def checked_uri(uri: str) -> str:
    """``uri``, if its host is unambiguous. Raises ValueError with a message that contains no part of it."""
    if "://" not in uri:
        return uri
    if "@" in printable(uri) or printable(uri).endswith("://..."):
        raise ValueError("has an @ after the host: a password's special characters must be percent-encoded")
    if not re.fullmatch(r"[^:]+://(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(:\d{1,5})?", printable(uri)):
        raise ValueError("should be scheme://host or scheme://host:port")
    return uri
