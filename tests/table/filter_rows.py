"""Filters: what each operator finds among six documents, and the errors of invalid filters."""

from typing import Any

from tests.table.frame import Row, batch, document, problem, search, titles

DOCUMENTS = [
    document("A", author="Kim", tags=["x", "y"], file_path="/a/École.PDF",
             metadata={"when": "2025-01-31", "a.b": 1, "": {"x.y": "z"}, "list": [1, "two", "x"], "n": 1,
                       "t": "Straße"}),
    document("B", author="", tags=["y"], file_path="/a/b.txt",
             metadata={"when": "2025-01-31T08:59:59.999999+09:00", "list": [], "n": "1", "t": "STRASSE"}),
    document("C", metadata={"when": "2025-01-30T15:00:00.0000001Z", "list": None, "a": {"b": 2}, "t": ""}),
    document("D", tags=["x", "y", "z"], metadata={"when": "yesterday", "list": {}, "t": "two words"}),
    document("E", author="kim", metadata={"when": 1738281600, "list": ["x", "y"], "n": 2}),
    document("F", file_path="", metadata={"when": "2025-02-30", "list": "x and y", "t": None}),
]  # fmt: skip
GIVEN = [batch(*DOCUMENTS)]


def condition(type: str, key: Any, value: Any, **more: Any) -> dict[str, Any]:
    return {"type": type, "key": key, "value": value, **more}


def found(name: str, filter: Any, expected: str) -> Row:
    """``expected``: a letter for each title."""
    return Row("filter", name, search(filter), 200, titles(*expected), GIVEN)


def timed(type: str, value: str, expected: str) -> Row:
    return found(f"{type} {value}", condition(type, "metadata.when", value, **{"as": "time"}), expected)


def refused(name: str, filter: Any, place: str, text: str) -> Row:
    return Row("filter", name, search(filter), 422, problem("invalid_input", (f"body.filter{place}", text)))


def unknown(type: Any, use: str) -> Row:
    return refused(f"type {type}", condition(type, "title", "x"), "", f"use {use}")


KEY, LIST, TEXT, PATH = "metadata.list", ["metadata", "list"], "metadata.t", "file_path"
ROWS: list[Row] = [
    timed("gt", "2025-01-30", "ABC"),
    timed("gte", "2025-01-31T00:00:00Z", "A"),
    timed("gte", "2025-01-31T09:00:00+09:00", "A"),
    timed("lt", "2025-01-31", "BC"),
    timed("lt", "2025-01-30T23:59:59.999999", "C"),
    timed("lte", "2025-01-31T08:59:59.999999+09:00", "BC"),
    timed("eq", "2025-01-30T15:00:00+00:00", "C"),
    timed("eq", "2025-01-31T00:00+00:00", "A"),
    timed("ne", "2025-01-31", "BCDEF"),
    found("not a time", {"type": "not", "filter": condition("gt", "metadata.when", "2000-01-01", **{"as": "time"})},
          "DEF"),
    found("as null is text", condition("gte", "metadata.when", "2025-01-31", **{"as": None}), "ABDF"),
    found("as time of created_at", condition("gt", "created_at", "2020-01-01", **{"as": "time"}), "ABCDEF"),
    refused("as time of a title", condition("eq", "title", "2025-01-01", **{"as": "time"}), ".eq.value", "its own"),
    refused("as time, no time", condition("gt", "metadata.when", "soon", **{"as": "time"}), ".gt.value", "ISO 8601"),
    refused("as number", condition("gt", "metadata.when", "1", **{"as": "number"}), ".gt.as", "'time'"),
    found("key with a dot", condition("eq", ["metadata", "a.b"], 1), "A"),
    found("path of two names", condition("eq", ["metadata", "a", "b"], 2), "C"),
    found("the same as a string", condition("eq", "metadata.a.b", 2), "C"),
    found("empty key", condition("eq", ["metadata", "", "x.y"], "z"), "A"),
    found("a column in a list", condition("eq", ["title"], "B"), "B"),
    refused("a list without a key", condition("eq", ["metadata"], 1), ".eq.key", "add its name"),
    refused("a list of numbers", condition("eq", [1], 1), ".eq.key", "a list such as"),
    refused("an empty name", condition("eq", "metadata.a..b", 1), ".eq.key", "goes into a list"),
    found("contains_any tags", condition("contains_any", "tags", ["x", "z", "q"]), "AD"),
    found("contains_all tags", condition("contains_all", "tags", ["x", "y"]), "AD"),
    found("contains_any of an array", condition("contains_any", KEY, ["two", "y"]), "AEF"),
    found("contains_all of an array", condition("contains_all", LIST, ["x", 1]), "A"),
    found("contains_any of a string", condition("contains_any", "title", ["A", "F", "x"]), "AF"),
    found("contains_all of a string", condition("contains_all", KEY, ["x", "y"]), "EF"),
    refused("contains_any of nothing", condition("contains_any", "tags", []), ".contains_any.value", "at least 1"),
    refused("contains_any of a number", condition("contains_any", "tags", [1]), ".contains_any.value", "strings"),
    found("not_contains tags", condition("not_contains", "tags", "x"), "BCEF"),
    found("not_contains in text", condition("not_contains", PATH, "a/"), "CDEF"),
    found("not_contains of an array", condition("not_contains", KEY, "x"), "BCD"),
    found("starts_with", condition("starts_with", PATH, "/a/É"), "A"),
    found("starts_with in metadata", condition("starts_with", TEXT, "two"), "D"),
    found("starts_with nothing", condition("starts_with", TEXT, ""), "ABCD"),
    found("ends_with", condition("ends_with", PATH, ".txt"), "B"),
    found("ends_with counts case", condition("ends_with", PATH, ".pdf"), ""),
    found("ends_with in metadata", condition("ends_with", TEXT, "words"), "D"),
    found("icontains", condition("icontains", PATH, "école.pdf"), "A"),
    found("icontains in metadata", condition("icontains", TEXT, "STRA"), "AB"),
    found("icontains folds a letter for a letter", condition("icontains", TEXT, "strasse"), "B"),
    found("icontains of signs", condition("icontains", PATH, "."), "AB"),
    found("icontains of an author", condition("icontains", "author", "KIM"), "AE"),
    refused("icontains of 257 characters", condition("icontains", TEXT, "x" * 257), ".icontains.value", "at most 256"),
    refused("starts_with of tags", condition("starts_with", "tags", "x"), ".starts_with.value", "use contains"),
    refused("ends_with of a time", condition("ends_with", "created_at", "x"), ".ends_with.value", "gte and lt"),
    refused("starts_with a number", condition("starts_with", KEY, 1), ".starts_with.value", "use eq"),
    found("is_empty author", condition("is_empty", "author", True), "BCDF"),
    found("is_empty false", condition("is_empty", "author", False), "AE"),
    found("is_empty tags", condition("is_empty", "tags", True), "CEF"),
    found("is_empty file_path", condition("is_empty", PATH, True), "CDEF"),
    found("is_empty of all kinds", condition("is_empty", KEY, True), "BCD"),
    found("is_empty or missing", condition("is_empty", "metadata.n", True), "CDF"),
    found("is_empty text or null", condition("is_empty", TEXT, True), "CEF"),
    found("is_empty without a value", {"type": "is_empty", "key": "tags"}, "CEF"),
    refused("gt of tags", condition("gt", "tags", "x"), ".gt.value", "use contains"),
    refused("gt of null", condition("gt", "metadata.n", None), ".gt.value", "use eq"),
    refused("eq tags to a string", condition("eq", "tags", "x"), ".eq.value", "use contains"),
    refused("eq title to a list", condition("eq", "title", ["A"]), ".eq.value", "use in"),
    refused("eq author to null", condition("eq", "author", None), ".eq.value", "use is_empty"),
    refused("in of tags", condition("in", "tags", ["x"]), ".in.value", "use contains_any"),
    refused("contains a list of tags", condition("contains", "tags", ["x"]), ".contains.value", "contains_all"),
    refused("no type", {"key": "title", "value": "x"}, "", 'filter has no "type"'),
    refused("no type inside", {"type": "and", "filters": [{"key": "title"}]}, "", 'filter.filters.0 has no "type"'),
    unknown("like", "contains, starts_with or ends_with"),
    unknown("ilike", "icontains"),
    unknown("$eq", "eq"),
    unknown("!=", "ne"),
    unknown("BETWEEN", "gte and lte in an and"),
    unknown("not in", "nin"),
    unknown("is_null", "is_empty"),
    unknown("should", "or"),
    unknown("near", "one of eq, ne"),
]  # fmt: skip
