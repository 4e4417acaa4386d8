"""Bodies of Dify's External Knowledge API.

Fields that are not known are ignored: a newer Dify may send more.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, Strict, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from app.models.attribute_filters import attribute_key, core_filter
from app.models.fields import QueryText
from app.models.search import DEFAULT_LIMIT, Limit
from app.schemas import filter_tree as tree

MAX_CONDITIONS = 100
Operator = Literal[
    "contains", "not contains", "start with", "end with", "is", "is not", "in", "not in", "empty", "not empty",
    "=", "≠", ">", "<", "≥", "≤", "before", "after",
]  # fmt: skip
_SAME = {"contains": "contains", "start with": "starts_with", "end with": "ends_with", "is": "eq", "is not": "ne"}
_NUMERIC = {"=": "eq", "≠": "ne", ">": "gt", "<": "lt", "≥": "gte", "≤": "lte"}
_TIMES = {"before": "lt", "after": "gt"}
_LISTS = {"in": "in", "not in": "nin"}


class _Received(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Condition(_Received):
    name: str
    comparison_operator: Operator
    value: str | int | float | bool | list[str | int | float] | None = None

    _core: tree.Filter = PrivateAttr()

    @model_validator(mode="after")
    def _has_a_filter(self) -> Self:
        self._core = core_filter(_node(attribute_key(self.name), self.comparison_operator, self.value))
        return self

    def to_core(self) -> tree.Filter:
        return self._core


def _node(key: Any, operator: str, value: Any) -> dict[str, Any]:
    """The condition as a node of our filters."""
    if operator in ("empty", "not empty"):
        return {"type": "is_empty", "key": key, "value": operator == "empty"}
    if value is None:
        raise ValueError(f"{operator!r} takes a value")
    if operator == "not contains":
        return {"type": "not", "filter": _node(key, "contains", value)}
    if operator == "contains" and isinstance(value, list):
        return {"type": "contains_any", "key": key, "value": value}
    if operator in _LISTS:
        return {"type": _LISTS[operator], "key": key, "value": _items(value)}
    if operator in _NUMERIC:
        return {"type": _NUMERIC[operator], "key": key, "value": _number(value)}
    if operator in _TIMES:
        # Dify has times as seconds since 1970 in its own metadata, and as text in conditions that people write.
        as_time = {"as": "time"} if isinstance(value, str) else {}
        return {"type": _TIMES[operator], "key": key, "value": value, **as_time}
    return {"type": _SAME[operator], "key": key, "value": value}


def _items(value: Any) -> list[Any]:
    """A string is a list with commas, as in Dify's own filters."""
    if isinstance(value, list):
        return value
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else [value]


def _number(value: Any) -> Any:
    """Dify's variables are strings. Other strings stay, for = and ≠."""
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


class MetadataCondition(_Received):
    logical_operator: Literal["and", "or"] | None = "and"
    conditions: Annotated[list[Condition], Field(max_length=MAX_CONDITIONS)] | None = None

    def to_core(self) -> tree.Filter | None:
        filters = tuple(condition.to_core() for condition in self.conditions or ())
        if not filters:
            return None
        return tree.Or(filters) if self.logical_operator == "or" else tree.And(filters)


class RetrievalSetting(_Received):
    top_k: Limit | None = None
    score_threshold: Annotated[float, Strict(), Field(ge=0, le=1)] | None = None


class Retrieval(_Received):
    knowledge_id: Annotated[str, Field(min_length=1, max_length=255)]
    query: QueryText
    retrieval_setting: RetrievalSetting | None = None
    metadata_condition: MetadataCondition | None = None

    @property
    def limit(self) -> int:
        setting = self.retrieval_setting
        return DEFAULT_LIMIT if setting is None or setting.top_k is None else setting.top_k

    @property
    def score_threshold(self) -> float:
        setting = self.retrieval_setting
        return 0.0 if setting is None or setting.score_threshold is None else setting.score_threshold

    @property
    def where(self) -> tree.Filter | None:
        return self.metadata_condition.to_core() if self.metadata_condition else None

    @model_validator(mode="after")
    def _knowledge_is_named(self) -> Self:
        if not self.knowledge_id.strip():
            raise PydanticCustomError("blank_text", "knowledge_id must hold more than white space")
        return self


class Record(TypedDict):
    content: str
    score: float
    title: str
    metadata: dict[str, Any]


class Records(TypedDict):
    records: list[Record]
