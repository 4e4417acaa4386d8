"""The types of filter nodes, and which of them to suggest for an unknown type."""

from typing import Any

from app.models.filter_values import quoted
from app.schemas import filter_tree as tree

TYPES = (*tree.OPERATORS, "and", "or", "not")
_ALTERNATIVES = {
    "eq": ("=", "==", "equals", "is", "match", "term"),
    "ne": ("!=", "<>", "not_equals", "neq", "is_not"),
    "gt": (">",),
    "gte": (">=", "ge", "min", "after"),
    "lt": ("<",),
    "lte": ("<=", "le", "max", "before"),
    "gte and lte in an and": ("between", "range"),
    "in": ("any", "one_of", "terms"),
    "nin": ("not_in", "notin", "none", "except"),
    "contains, starts_with or ends_with": ("like", "regex", "matches", "wildcard", "glob"),
    "icontains": ("ilike", "contains_ignore_case", "text", "full_text", "match_text"),
    "not_contains": ("not_like", "does_not_contain"),
    "starts_with": ("startswith", "prefix", "begins_with", "start_with"),
    "ends_with": ("endswith", "suffix", "end_with"),
    "contains_any": ("array_contains_any", "overlap", "overlaps", "has_any"),
    "contains_all": ("all", "array_contains_all", "has_all"),
    "is_empty": ("is_null", "isnull", "null", "empty", "missing", "is_none"),
    "exists, or is_empty with false": ("not_null", "is_not_null", "is_not_empty", "not_empty"),
    "and": ("must", "filter"),
    "or": ("should",),
    "not": ("must_not", "nor"),
}
_SUGGESTIONS = {word: type for type, words in _ALTERNATIVES.items() for word in words}


def check_type(location: str, node: Any) -> None:
    """Raises ValueError with a suggestion for an unknown type. The models check whether ``node`` is an object."""
    if not isinstance(node, dict) or node.get("type") in TYPES:
        return
    if "type" not in node:
        raise ValueError(
            f'{location} has no "type", for example {{"type": "eq", "key": "metadata.language", "value": "ko"}}'
        )
    type = node["type"]
    if not isinstance(type, str):
        raise ValueError(f"the type at {location} is not a string: use one of {', '.join(TYPES)}")
    wanted = type.lower().removeprefix("$").replace(" ", "_").replace("-", "_")
    use = wanted if wanted in TYPES else _SUGGESTIONS.get(wanted)
    raise ValueError(
        f"unknown type {quoted(type)} at {location}: use {use}"
        if use
        else f"unknown type {quoted(type)} at {location}: use one of {', '.join(TYPES)}"
    )
