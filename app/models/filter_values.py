"""Validates the keys and values of filter conditions and normalizes them to NFC."""

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from app.schemas import filter_tree as tree
from app.schemas.filters import COLUMNS, Kind
from app.utils.unicode import CollidingKeys, nfc, nfc_json

MAX_DEPTH = 8
MAX_CONDITIONS = 100
MAX_PATH = 8
MAX_LIST = 1000
MAX_STRING = 4096
INT64 = range(-(2**63), 2**63)

METADATA_PREFIX = "metadata."
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # PostgreSQL's type text holds neither.


FilterKey = tree.Column | tree.MetadataPath


def check_string(value: str) -> str:
    if len(nfc(value)) > MAX_STRING:
        raise ValueError(f"a string of more than {MAX_STRING} characters")
    if _UNSTORABLE.search(value):
        raise ValueError("a string with a NUL character or a lone surrogate")
    return value


def check_json(value: Any) -> Any:
    """The value in NFC. Raises ValueError for more than 8 levels or 1,000 values, or what PostgreSQL cannot hold."""
    seen, level = 0, [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            match item:
                case None | bool():
                    pass
                case str():
                    check_string(item)
                case int() if item not in INT64:
                    raise ValueError("an integer beyond 64 bits")
                case float() if not math.isfinite(item):
                    raise ValueError("a number that is not finite")
                case int() | float():
                    pass
                case list():
                    below.extend(item)
                case dict():
                    below.extend(item)
                    below.extend(item.values())
                case _:
                    raise ValueError(f"{type(item).__name__} is not a JSON type")
        seen += len(level)
        if seen + len(below) > MAX_LIST + 1:
            raise ValueError(f"more than {MAX_LIST} values in one")
        if not below:
            return _normalized(value)
        level = below
    raise ValueError(f"nested deeper than {MAX_DEPTH} levels")


def _normalized(value: Any) -> Any:
    try:
        return nfc_json(value)
    except CollidingKeys as exc:
        raise ValueError(f"an object with the key {exc.key!r} twice: both are the same text in Unicode's NFC") from None


def parse_filter_key(key: Any) -> FilterKey:
    """Parses ``title``, ``metadata.a.b``, or ``["metadata", "a.b"]`` for names with dots. Raises ValueError."""
    if isinstance(key, list) and key and all(isinstance(name, str) for name in key):
        names = [nfc(check_string(name)) for name in key]
        if names == ["metadata"]:
            raise ValueError("the list names no key of metadata: add its name")
    elif isinstance(key, str):
        text = nfc(check_string(key))
        names = text.split(".") if text.startswith(METADATA_PREFIX) else [text]
        if not all(names[1:]):
            raise ValueError(
                f"empty name in the path {quoted(text)}: a name that is empty or has dots goes into a list"
            )
    else:
        raise ValueError('a key is a string such as "metadata.language", or a list such as ["metadata", "a.b"]')
    if names[0] in COLUMNS and len(names) == 1:
        return tree.Column(names[0])
    if names[0] != "metadata" or len(names) == 1:
        raise ValueError(f"unknown key {quoted(names[0])}: use metadata.<name> or one of {', '.join(COLUMNS)}")
    if len(names) > MAX_PATH + 1:
        raise ValueError(f"more than {MAX_PATH} names in the path {quoted('.'.join(names))}")
    return tree.MetadataPath(tuple(names[1:]))


def quoted(text: str) -> str:
    return repr(text[:100])


def text_of(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(
            "this key takes a string: use in for several"
            if isinstance(value, list)
            else "this key takes a string: use is_empty for none"
            if value is None
            else "this key takes a string"
        )
    return value


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("this key takes an integer" + (": use in for several" if isinstance(value, list) else ""))
    return value


def _tags(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(tag, str) for tag in value):
        raise ValueError("this key takes a list of strings, all of its tags: use contains for one of them")
    return value


def time_of(value: Any) -> datetime:
    """Parses ISO 8601. A time without a zone is UTC. Raises ValueError."""
    try:
        parsed = datetime.fromisoformat(value)
        return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("this takes a time in ISO 8601, such as 2025-01-31T09:00:00+09:00") from None


_BY_KIND: dict[Kind, Callable[[Any], Any]] = {
    "text": text_of,
    "tags": _tags,
    "time": time_of,
    "integer": _integer,
}


def kind_of(key: FilterKey | None) -> Kind | None:
    """The kind of the key's column; None for a metadata key, or if the key is not valid."""
    return COLUMNS[key.name].kind if isinstance(key, tree.Column) else None


def fit(value: Any, key: FilterKey | None) -> Any:
    """Converts the value to the column's type. A value for a metadata key is unchanged. Raises ValueError."""
    kind = kind_of(key)
    return value if kind is None else _BY_KIND[kind](value)
