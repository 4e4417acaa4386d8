"""The meaning of filters in plain Python: the reference that the SQL is compared with."""

import operator
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from app.schemas.filter_tree import And, Column, Condition, Filter, MetadataPath, Normalized, Not, Or
from app.utils.unicode import nfc_json

MISSING = object()


def matches(filter: Filter, document: Mapping[str, Any]) -> bool:
    """Whether a document passes. ``document``: its row as a dictionary."""
    match filter:
        case And(filters):
            return all(matches(inner, document) for inner in filters)
        case Or(filters):
            return any(matches(inner, document) for inner in filters)
        case Not(inner):
            return not matches(inner, document)
        case Normalized(inner):
            return matches(inner, {key: nfc_json(value) for key, value in document.items()})
        case Condition(op, key, value):
            return _test(op, _look_up(key, document), value)


def _look_up(key: Column | MetadataPath, document: Mapping[str, Any]) -> Any:
    match key:
        case Column(name):
            return MISSING if document[name] is None else document[name]
        case MetadataPath(segments):
            found: Any = document["metadata"]
            for segment in segments:
                found = found.get(segment, MISSING) if isinstance(found, dict) else MISSING
            return found


def _test(op: str, found: Any, value: Any) -> bool:
    match op:
        case "eq":
            return equal(found, value)
        case "ne":
            return not equal(found, value)
        case "in":
            return any(equal(found, item) for item in value)
        case "nin":
            return not any(equal(found, item) for item in value)
        case "exists":
            return (found is not MISSING) is value
        case "is_empty":
            return (found is MISSING or found is None or found in ("", [], {})) is value
        case "contains":
            return _contains(found, value)
        case "not_contains":
            return not _contains(found, value)
        case "contains_any":
            return any(_contains(found, item) for item in value)
        case "contains_all":
            return all(_contains(found, item) for item in value)
        case "icontains":
            return isinstance(found, str) and _within(list(map(str.casefold, value)), list(map(str.casefold, found)))
        case "starts_with":
            return isinstance(found, str) and found.startswith(value)
        case "ends_with":
            return isinstance(found, str) and found.endswith(value)
    if isinstance(value, datetime) and not isinstance(found, datetime):
        moment = time_named(found)
        return moment is not None and ORDER[op](moment, _microseconds(value))
    left, right = _json(found), _json(value)
    if left[0] != right[0] or left[0] not in ("number", "str", "datetime"):
        return False
    return ORDER[op](left[1], right[1])


ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


def _contains(found: Any, value: Any) -> bool:
    if isinstance(found, list):
        return any(equal(item, value) for item in found)
    return isinstance(found, str) and isinstance(value, str) and value in found


def _within(part: list[str], whole: list[str]) -> bool:
    return any(whole[start : start + len(part)] == part for start in range(len(whole) - len(part) + 1))


ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[Tt ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,9}))?)?(?:[Zz]|([+-][0-9]{2})(?::?([0-9]{2}))?)?)?"
)
EPOCH = datetime(1, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def _microseconds(moment: datetime) -> int:
    return (moment - EPOCH) // MICROSECOND


def time_named(text: Any) -> int | None:
    """The time that a text names in ISO 8601, in microseconds since the year 1, in UTC."""
    match = ISO.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in match.group(1, 2, 3, 4, 5, 6))
    try:
        moment = _microseconds(datetime(year, month, day, hour, minute, second, tzinfo=UTC))
    except ValueError:
        return None
    hours, minutes = int(match[8] or 0), int(match[9] or 0)
    if abs(hours) > 23 or minutes > 59:
        return None
    sign = -1 if (match[8] or "").startswith("-") else 1
    offset = timedelta(hours=hours, minutes=sign * minutes)
    return moment + int((match[7] or "").ljust(6, "0")[:6]) - offset // MICROSECOND


def equal(left: Any, right: Any) -> bool:
    if isinstance(right, datetime) and not isinstance(left, datetime):
        return time_named(left) == _microseconds(right)
    return left is not MISSING and _json(left) == _json(right)


def _json(value: Any) -> tuple[str, Any]:
    """The JSON type, and a value that Python's == compares as JSON does; numbers as their shortest decimal."""
    match value:
        case bool():
            return "bool", value
        case int() | float():
            return "number", Decimal(repr(value))
        case list():
            return "list", [_json(item) for item in value]
        case dict():
            return "dict", {key: _json(item) for key, item in value.items()}
    return type(value).__name__, value
