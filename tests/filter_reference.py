"""What filters mean, said a second time in plain Python, to hold the SQL against."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from app.schemas.filter_tree import And, Column, Condition, Filter, MetadataPath, Normalized, Not, Or
from app.utils.unicode import nfc_json

MISSING = object()


def matches(filter: Filter, document: Mapping[str, Any]) -> bool:
    """Whether ``document``, a row of documents as a dict, passes."""
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
        case "contains" if isinstance(found, list):
            return any(equal(item, value) for item in found)
        case "contains":
            return isinstance(found, str) and isinstance(value, str) and value in found
    left, right = _json(found), _json(value)
    if left[0] != right[0] or left[0] not in ("number", "str", "datetime"):
        return False
    return bool(
        {"gt": left[1] > right[1], "gte": left[1] >= right[1], "lt": left[1] < right[1], "lte": left[1] <= right[1]}[op]
    )


def equal(left: Any, right: Any) -> bool:
    return left is not MISSING and _json(left) == _json(right)


def _json(value: Any) -> tuple[str, Any]:
    """The JSON type and a value that Python's == compares as JSON does; numbers as their shortest decimal."""
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
