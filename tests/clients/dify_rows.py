"""What Dify sends to an external knowledge API, and what it can read.

Sources: the page "External Knowledge API" of langgenius/dify-docs at 9d8344e (2026-07-22), and in langgenius/dify
``services/external_knowledge_service.py`` (request, check of a new API), ``core/rag/entities/metadata_entities.py``
(operators and values) and ``core/rag/entities/citation_metadata.py`` (types that a citation takes).
"""

from typing import Any

from tests.table.frame import FOUND, Call, Row, containing, insert

KIND = "dify-docs 9d8344e"
PATH = "/integrations/dify/retrieval"
BAD_KEY = {"Authorization": "Bearer cm_aaaaaaaa_" + "a" * 43}


def body(**fields: Any) -> dict[str, Any]:
    setting = {"top_k": 4, "score_threshold": 0.0}
    return {"knowledge_id": "<bot>", "query": FOUND, "retrieval_setting": setting, "metadata_condition": None, **fields}


def retrieve(**fields: Any) -> Call:
    return Call("POST", PATH, body(**fields))


def contents(*expected: str) -> Any:
    """The titles of the records, in any order, each record in the form that Dify reads."""

    def differ(answer: Any) -> str | None:
        for record in answer["records"]:
            if not isinstance(record["metadata"], dict) or not isinstance(record["metadata"]["document_id"], str):
                return f"Dify cannot read {record}"
            if not 0 <= record["score"] <= 1 or not record["content"]:
                return f"{record}"
        found = sorted(record["title"] for record in answer["records"])
        return None if found == sorted(expected) else f"found {found}, not {sorted(expected)}"

    return differ


def failed(name: str, status: int, code: int, text: str, call: Call, given: tuple[Call, ...] = ()) -> Row:
    return Row(KIND, name, call, status, {"error_code": code, "error_msg": containing(text)}, given)


PROBED = Call("POST", PATH)
"""What Dify sends when a person saves a new API: no body and no type, only the key."""


def filtered(operator: str, value: Any, *expected: str, name: str = "n") -> Row:
    """Of four documents: n is 1, 2, "two" and missing."""
    given = [insert("one", metadata={"n": 1}), insert("two", metadata={"n": 2}),
             insert("text", metadata={"n": "two"}), insert("none")]  # fmt: skip
    condition = {"name": name, "comparison_operator": operator, "value": value}
    call = retrieve(metadata_condition={"logical_operator": "and", "conditions": [condition]})
    return Row("dify metadata_entities", f"{operator} {value!r}", call, 200, contents(*expected), given)


def at(operator: str, value: Any, *expected: str) -> Row:
    given = [insert("old", metadata={"t": "2024-05-01T00:00:00Z", "s": 1714521600}),
             insert("new", metadata={"t": "2026-05-01T00:00:00+09:00", "s": 1777561200})]  # fmt: skip
    name = "t" if isinstance(value, str) else "s"
    condition = {"name": name, "comparison_operator": operator, "value": value}
    call = retrieve(metadata_condition={"logical_operator": None, "conditions": [condition]})
    return Row("dify metadata_entities", f"{operator} {value!r}", call, 200, contents(*expected), given)


def refused_condition(name: str, text: str, /, **condition: Any) -> Row:
    call = retrieve(metadata_condition={"conditions": [condition]})
    return failed(name, 400, 400, text, call)


TWO = [insert("a", metadata={"x": 1}), insert("b", metadata={"x": 2, "nested": {"y": [1]}, "title": "mine"})]
X_1 = {"name": "x", "comparison_operator": "=", "value": 1}
X_2 = {"name": "x", "comparison_operator": "=", "value": 2}

ROWS: list[Row] = [
    Row(KIND, "a bot by its chat_bot_id", retrieve(), 200, contents("a", "b"), TWO),
    Row(KIND, "a bot by its collection_name", retrieve(knowledge_id="<row>"), 200, contents("a", "b"), TWO),
    Row(KIND, "a slash at the end", Call("POST", PATH + "/", body()), 200, contents("a", "b"), TWO),
    Row(KIND, "no documents", retrieve(), 200, {"records": []}),
    Row(KIND, "nested metadata", retrieve(metadata_condition={"conditions": [X_2]}), 200,
        {"records": [{"title": "b", "metadata": {"x": 2, "nested": {"y": [1]}, "title": "mine"}}]}, TWO),
    Row(KIND, "top_k and score_threshold that are null",
        retrieve(retrieval_setting={"top_k": None, "score_threshold": None}), 200, contents("a", "b"), TWO),
    Row(KIND, "top_k", retrieve(retrieval_setting={"top_k": 1, "score_threshold": 0.0}), 200,
        lambda answer: None if len(answer["records"]) == 1 else "not one", TWO),
    Row(KIND, "score_threshold", retrieve(retrieval_setting={"top_k": 4, "score_threshold": 1.0}), 200,
        lambda answer: None if all(one["score"] == 1 for one in answer["records"]) else "below", TWO),
    Row(KIND, "fields of a newer Dify", Call("POST", PATH, body(attachment_ids=[], user={"id": 1})), 200,
        contents("a", "b"), TWO),
    Row(KIND, "no metadata_condition", Call("POST", PATH, {"knowledge_id": "<bot>", "query": FOUND,
                                                            "retrieval_setting": {"top_k": 2}}), 200,
        contents("a", "b"), TWO),
    Row(KIND, "no conditions", retrieve(metadata_condition={"logical_operator": "and", "conditions": None}), 200,
        contents("a", "b"), TWO),
    Row(KIND, "and", retrieve(metadata_condition={"conditions": [X_1, X_2]}), 200, contents(), TWO),
    Row(KIND, "or", retrieve(metadata_condition={"logical_operator": "or", "conditions": [X_1, X_2]}), 200,
        contents("a", "b"), TWO),
    failed("the check of a new API", 400, 400, "send JSON", PROBED),
    failed("the check of a new API with a bad key", 403, 1002, "not valid", Call("POST", PATH, headers=BAD_KEY)),
    failed("a bad key", 403, 1002, "not valid", Call("POST", PATH, body(), headers=BAD_KEY)),
    failed("another scheme", 403, 1001, "Bearer", Call("POST", PATH, body(), headers={"Authorization": "Basic eA=="})),
    failed("no key", 403, 1001, "Bearer", Call("POST", PATH, body(), headers={"Authorization": "Bearer"})),
    failed("an unknown bot", 404, 2001, "no bot", retrieve(knowledge_id="7f3c1e9a-2b4d-4c6e-8f10-000000000000")),
    failed("an unknown name", 404, 2001, "no bot", retrieve(knowledge_id="unknown_name")),
    failed("a name that is none", 404, 2001, "no bot", retrieve(knowledge_id="no-uuid")),
    failed("a name with NUL", 404, 2001, "no bot", retrieve(knowledge_id="a\0b")),
    failed("a query with NUL", 400, 400, "NUL", retrieve(query="a\0b")),
    failed("an empty object", 400, 400, "knowledge_id", Call("POST", PATH, {})),
    failed("a broken body", 400, 400, "JSON", Call("POST", PATH, content=b"{")),
    failed("a blank query", 400, 400, "white space", retrieve(query=" ")),
    failed("a top_k of 0", 400, 400, "top_k", retrieve(retrieval_setting={"top_k": 0})),
    failed("a score_threshold above 1", 400, 400, "score_threshold",
           retrieve(retrieval_setting={"score_threshold": 2})),
    failed("another method", 405, 405, "Method", Call("GET", PATH)),
    refused_condition("an unknown operator", "comparison_operator", name="x", comparison_operator="like", value="a"),
    refused_condition("an operator without its value", "takes a value", name="x", comparison_operator="is"),
    refused_condition("an order of text", "time", name="x", comparison_operator="before", value="soon"),
    filtered("=", 1, "one"),
    filtered("=", "2", "two"),
    filtered("=", 1.0, "one"),
    filtered("≠", 1, "two", "text", "none"),
    filtered(">", "1", "two"),
    filtered("<", 2, "one"),
    filtered("≥", 1, "one", "two"),
    filtered("≤", "1.5", "one"),
    filtered("is", "two", "text"),
    filtered("is not", "two", "one", "two", "none"),
    filtered("contains", "w", "text"),
    filtered("not contains", "w", "one", "two", "none"),
    filtered("start with", "tw", "text"),
    filtered("end with", "wo", "text"),
    filtered("in", ["two", "x"], "text"),
    filtered("in", "x, two", "text"),
    filtered("in", [1, 2], "one", "two"),
    filtered("not in", ["two"], "one", "two", "none"),
    filtered("empty", None, "none"),
    filtered("not empty", None, "one", "two", "text"),
    filtered("start with", "o", "one", name="document.title"),
    at("before", "2025-01-01T00:00:00Z", "old"),
    at("after", "2025-01-01", "new"),
    at("before", 1735689600, "old"),
    at("after", 1735689600.5, "new"),
]  # fmt: skip
