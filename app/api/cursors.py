"""Cursors of pages: opaque strings, each bound to the query whose pages it continues."""

import base64
import hashlib
from collections.abc import Callable
from datetime import datetime
from typing import Any

import orjson

from app.models.fields import INT64_MAX, storable
from app.utils.errors import InvalidInput

Reader = Callable[[Any], Any]
"""Makes a part of a position from JSON. Raises ValueError or TypeError for what ``encode_cursor`` never writes."""


def encode_cursor(query: object, *position: object) -> str:
    """``query``: all that the request asks for, without the size of a page. Equal queries have an equal ``repr``.

    ``position``: strings, integers, times, UUIDs and None.
    """
    content = orjson.dumps([_fingerprint(query), *position], default=str)  # asyncpg has a UUID of its own.
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode("ascii")


def decode_cursor(cursor: str, query: object, location: str, *readers: Reader) -> list[Any]:
    """The cursor's position, each part by its reader. Raises InvalidInput, which names ``location``."""
    try:
        content = orjson.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
        fingerprint, *parts = content
        position = [read(part) for read, part in zip(readers, parts, strict=True)]
    except (TypeError, ValueError):
        raise InvalidInput.at(location, "is not a next_cursor of this call") from None
    if fingerprint != _fingerprint(query):
        raise InvalidInput.at(location, "belongs to another query: leave it out for the first page of this one")
    return position


def read_integer(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= INT64_MAX:
        raise ValueError
    return value


def read_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return storable(value)


def optional(read: Reader) -> Reader:
    return lambda value: None if value is None else read(value)


def read_time(value: Any) -> datetime:
    time = datetime.fromisoformat(value)
    if time.tzinfo is None:
        raise ValueError
    return time


def _fingerprint(query: object) -> str:
    return hashlib.blake2b(repr(query).encode(), digest_size=6).hexdigest()
