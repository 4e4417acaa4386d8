"""The forms of a filter, and the location that the error of each mistake names."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from app.core.stores.postgres.filter_sql import compile_filter
from app.models.filters import BoundedFilter
from app.schemas.filter_tree import And, Column, Condition, MetadataPath, Not, Or

ADAPTER: TypeAdapter[Any] = TypeAdapter(BoundedFilter)


class Body(BaseModel):
    filter: BoundedFilter | None = None


def test_all_forms_become_core_filters() -> None:
    filter = ADAPTER.validate_json("""
        {"type": "and", "filters": [
            {"type": "eq", "key": "metadata.a.b", "value": {"x": [1, null]}},
            {"type": "or", "filters": [{"type": "in", "key": "doc_id", "value": [1, 2]},
                                       {"type": "contains", "key": "tags", "value": "faq"}]},
            {"type": "not", "filter": {"type": "exists", "key": "author"}},
            {"type": "lt", "key": "created_at", "value": "2025-01-01T09:00:00+09:00"},
            {"type": "gte", "key": "updated_at", "value": "2025-01-01"}]}""")
    assert filter.to_core() == And(
        (
            Condition("eq", MetadataPath(("a", "b")), {"x": [1, None]}),
            Or((Condition("in", Column("doc_id"), [1, 2]), Condition("contains", Column("tags"), "faq"))),
            Not(Condition("exists", Column("author"), True)),
            Condition("lt", Column("created_at"), datetime(2025, 1, 1, tzinfo=UTC)),
            Condition("gte", Column("updated_at"), datetime(2025, 1, 1, tzinfo=UTC)),
        )
    )


def leaf(type: str, key: Any, value: Any) -> dict[str, Any]:
    return {"type": type, "key": key, "value": value}


@pytest.mark.parametrize(
    ("filter", "place", "reason"),
    [
        (leaf("like", "title", "x"), (), "'like'"),
        ({"key": "title"}, (), 'filter has no "type"'),
        ("x", (), "dictionary"),
        (leaf("eq", "colour", "x"), ("eq", "key"), "unknown key 'colour'"),
        (leaf("eq", "generation", 1), ("eq", "key"), "unknown key 'generation'"),
        (leaf("eq", "metadata", {}), ("eq", "key"), "unknown key 'metadata'"),
        (leaf("eq", "metadata.a..b", 1), ("eq", "key"), "empty name"),
        (leaf("eq", "metadata." + ".".join("abcdefghi"), 1), ("eq", "key"), "more than 8 names"),
        (leaf("eq", "metadata.\x00", 1), ("eq", "key"), "NUL"),
        (leaf("eq", "metadata.\ud800", 1), ("eq", "key"), "surrogate"),
        (leaf("eq", 5, 1), ("eq", "key"), "a key is a string"),
        (leaf("eq", [], 1), ("eq", "key"), "a key is a string"),
        (leaf("eq", ["metadata", 1], 1), ("eq", "key"), "a key is a string"),
        (leaf("eq", ["metadata"], 1), ("eq", "key"), "add its name"),
        (leaf("eq", ["title", "x"], 1), ("eq", "key"), "unknown key 'title'"),
        (leaf("eq", ["metadata", *"abcdefghi"], 1), ("eq", "key"), "more than 8 names"),
        (leaf("eq", ["metadata", "a\x00"], 1), ("eq", "key"), "NUL"),
        (leaf("starts_with", "tags", "x"), ("starts_with", "value"), "use contains"),
        (leaf("icontains", "metadata.a", "x" * 257), ("icontains", "value"), "at most 256"),
        (leaf("contains_any", "metadata.a", []), ("contains_any", "value"), "at least 1"),
        (leaf("gt", "metadata.a", "yesterday") | {"as": "time"}, ("gt", "value"), "ISO 8601"),
        (leaf("gt", "metadata.a", 1700000000) | {"as": "time"}, ("gt", "value"), "ISO 8601"),
        (leaf("eq", "title", "2025-01-01") | {"as": "time"}, ("eq", "value"), "a type of its own"),
        (leaf("eq", "metadata.a", "x") | {"as": "date"}, ("eq", "as"), "'time'"),
        ({"type": "eq", "key": "title"}, ("eq", "value"), "required"),
        (leaf("eq", "title", "x") | {"boost": 2}, ("eq", "boost"), "not permitted"),
        (leaf("eq", "metadata.a", "x\x00"), ("eq", "value"), "NUL"),
        (leaf("eq", "metadata.a", ["\ud800"]), ("eq", "value"), "surrogate"),
        (leaf("eq", "metadata.a", {"\ud800": 1}), ("eq", "value"), "surrogate"),
        (leaf("eq", "metadata.a", "x" * 4097), ("eq", "value"), "4096 characters"),
        (leaf("eq", "metadata.a", float("nan")), ("eq", "value"), "not finite"),
        (leaf("eq", "metadata.a", 2**63), ("eq", "value"), "64 bits"),
        (leaf("eq", "metadata.a", list(range(1001))), ("eq", "value"), "more than 1000 values"),
        (leaf("eq", "metadata.a", b"x"), ("eq", "value"), "not a JSON type"),
        (leaf("eq", "title", 5), ("eq", "value"), "takes a string"),
        (leaf("eq", "author", None), ("eq", "value"), "takes a string"),
        (leaf("eq", "doc_id", True), ("eq", "value"), "takes an integer"),
        (leaf("eq", "doc_id", "7"), ("eq", "value"), "takes an integer"),
        (leaf("eq", "tags", "faq"), ("eq", "value"), "list of strings"),
        (leaf("gt", "tags", "faq"), ("gt", "value"), "no order"),
        (leaf("gt", "metadata.a", True), ("gt", "value"), "have an order"),
        (leaf("gt", "metadata.a", None), ("gt", "value"), "have an order"),
        (leaf("gt", "created_at", "yesterday"), ("gt", "value"), "ISO 8601"),
        (leaf("gt", "created_at", 1700000000), ("gt", "value"), "ISO 8601"),
        (leaf("gt", "created_at", "0001-01-01T00:00:00+14:00"), ("gt", "value"), "ISO 8601"),
        (leaf("in", "metadata.a", "x"), ("in", "value"), "valid list"),
        (leaf("in", "metadata.a", ["x"] * 1001), ("in", "value"), "at most 1000"),
        (leaf("in", "metadata.a", [1, float("inf")]), ("in", "value", 1), "not finite"),
        (leaf("nin", "title", ["x", 5]), ("nin", "value"), "takes a string"),
        (leaf("contains", "doc_id", 1), ("contains", "value"), "does not work"),
        (leaf("contains", "tags", 1), ("contains", "value"), "takes a string"),
        (leaf("exists", "title", "yes"), ("exists", "value"), "valid boolean"),
        ({"type": "and", "filters": []}, ("and", "filters"), "at least 1"),
        ({"type": "or", "filters": [leaf("eq", "x", 1)]}, ("or", "filters", 0, "eq", "key"), "unknown key 'x'"),
        ({"type": "not", "filter": leaf("eq", "x", 1)}, ("not", "filter", "eq", "key"), "unknown key 'x'"),
        ({"type": "and", "filters": [leaf("eq", "title", "x")] * 101}, (), "more than 100 conditions"),
    ],
)
def test_an_error_names_the_location_of_the_mistake(filter: Any, place: tuple[str | int, ...], reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Body.model_validate({"filter": filter})
    (error,) = caught.value.errors(include_input=False, include_context=False, include_url=False)
    assert (error["loc"], reason in error["msg"]) == (("filter", *place), True), error


def nest(levels: int, kind: str) -> Any:
    filter: dict[str, Any] = leaf("eq", "title", "x")
    for _ in range(levels - 1):
        filter = {"type": "not", "filter": filter} if kind == "not" else {"type": kind, "filters": [filter]}
    return filter


@pytest.mark.parametrize("kind", ["not", "and"])
def test_depth_is_bounded(kind: str) -> None:
    ADAPTER.validate_python(nest(8, kind))
    for levels in (9, 20_000):
        with pytest.raises(ValidationError, match="nested deeper than 8 levels at filter"):
            Body.model_validate({"filter": nest(levels, kind)})


def test_depth_of_a_value_is_bounded() -> None:
    value: Any = "x"
    for _ in range(20_000):
        value = [value]
    with pytest.raises(ValidationError) as caught:
        Body.model_validate({"filter": leaf("eq", "metadata.a", value)})
    assert "nested deeper than 8 levels" in caught.value.errors(include_input=False)[0]["msg"]


def test_a_hundred_conditions_with_the_longest_lists_pass() -> None:
    filter = {"type": "or", "filters": [leaf("in", "metadata.a", ["가" * 10] * 1000)] * 100}
    sql, params = compile_filter(ADAPTER.validate_python(filter).to_core(), 4)
    assert sql.startswith("((COALESCE((d.metadata -> $4::text) IN")
    assert len(params) == 200


def test_no_text_of_a_caller_becomes_sql() -> None:
    hostile = "' or 1==1 -- {x} $9 %s"
    for type in ("eq", "gt", "contains"):
        for key in (f"metadata.{hostile}", "title"):
            sql, params = compile_filter(ADAPTER.validate_python(leaf(type, key, hostile)).to_core(), 1)
            assert "1==1" not in sql
            assert hostile in params


@pytest.mark.parametrize("key", ["metadata.a", "title", "file_path", "file_type", "author"])
def test_strings_are_ordered_by_code_point_in_every_locale(key: str) -> None:
    # The embedded PostgreSQL has only the locale C, so no query on it can show this.
    sql, _ = compile_filter(ADAPTER.validate_python(leaf("gt", key, "x")).to_core(), 1)
    assert 'COLLATE "C" >' in sql


def test_the_schema_can_be_published() -> None:
    assert "discriminator" in str(Body.model_json_schema())
