"""Filters of other APIs, in which a key without a prefix names a key of the document's metadata."""

from typing import Any

from pydantic import TypeAdapter, ValidationError

from app.models.filter_values import MAX_DEPTH, METADATA_PREFIX
from app.models.filters import BoundedFilter
from app.schemas import filter_tree as tree

COLUMN_PREFIX = "document."
_filter: TypeAdapter[Any] = TypeAdapter(BoundedFilter)


def attribute_key(name: Any) -> Any:
    """The key of our filters: ``document.title`` is a column, ``metadata.a.b`` a path, and ``a.b`` one metadata key."""
    if not isinstance(name, str) or name.startswith(METADATA_PREFIX):
        return name
    return name.removeprefix(COLUMN_PREFIX) if name.startswith(COLUMN_PREFIX) else ["metadata", name]


def core_filter(node: Any) -> tree.Filter:
    """The filter of a node with keys in our form. Raises ValueError, with the first error's message."""
    try:
        core: tree.Filter = _filter.validate_python(node).to_core()
    except ValidationError as exc:
        raise ValueError(exc.errors()[0]["msg"].removeprefix("Value error, ")) from None
    return core


def openai_filter(node: Any) -> tree.Filter:
    """The filter of OpenAI's ``filters``: its types have the names of ours. Raises ValueError."""
    return core_filter(_with_keys(node, MAX_DEPTH))


def _with_keys(node: Any, levels: int) -> Any:
    """Levels below the deepest that is allowed stay as they are: they are rejected."""
    if not isinstance(node, dict) or levels == 0:
        return node
    match node:
        case {"filters": list(filters)}:
            return {**node, "filters": [_with_keys(one, levels - 1) for one in filters]}
        case {"filter": dict(inner)}:
            return {**node, "filter": _with_keys(inner, levels - 1)}
        case {"key": name}:
            return {**node, "key": attribute_key(name)}
    return node
