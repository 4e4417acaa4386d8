"""Nothing is ignored: unknown parameters, unexpected bodies, null, and bodies that are not JSON in UTF-8."""

import json
from typing import Any

from tests.table.frame import FOUND, Call, Row, batch, containing, document, get, insert, problem, search, titles

BOT = "chat_bot_id=<bot>"
DOCUMENT = "/data/document/<doc>"
LIST = f"/data/documents?{BOT}"
EUC_KR = json.dumps({"chat_bot_id": "7f3c1e9a-2b4d-4c6e-8f10-1a2b3c4d5e6f", "query_text": "경복궁"}, ensure_ascii=False)


def refused(name: str, method: str, path: str, *places: tuple[str, str], body: Any = None) -> Row:
    """A parameter that is not the call's: nothing is done."""
    answer = problem("invalid_input", *places)
    return Row("parameters", name, Call(method, path, body), 422, answer, [insert("t")], [(get(), 200, None)])


def unknown(name: str, method: str, path: str, parameter: str, text: str, body: Any = None) -> Row:
    return refused(name, method, path, (f"query.{parameter}", text), body=body)


QUERY = {"chat_bot_id": "<bot>", "query_text": FOUND}
INSERT = document("t")
PATCH = {"chat_bot_id": "<bot>", "metadata_updates": {"author": "b"}}
DELETE = {"chat_bot_id": "<bot>", "doc_ids": ["<doc>"]}
PARAMETERS: list[Row] = [
    unknown("offset of a list", "GET", f"{LIST}&offset=2", "offset", "takes chat_bot_id, limit, cursor, account_name"),
    unknown("a misspelt one of DELETE", "DELETE", f"{DOCUMENT}?{BOT}&acount_name=x", "acount_name", "account_name?"),
    unknown("a misspelt one of a bot's DELETE", "DELETE", "/collection/<bot>?acount_name=x", "acount_name", "mean"),
    unknown("of GET", "GET", f"{DOCUMENT}?{BOT}&chunks=false", "chunks", "unknown query parameter"),
    unknown("of the bots' list", "GET", "/collection/list?page=1", "page", "account_name"),
    unknown("of a bot", "GET", "/collection/<bot>?verbose=1", "verbose", "takes account_name"),
    unknown("of a search", "POST", "/search/query?limit=2", "limit", "takes none", QUERY),
    unknown("of a search batch", "POST", "/search/batch?x=", "x", "takes none",
            {"chat_bot_id": "<bot>", "query_texts": ["x"]}),
    unknown("of an insert", "POST", "/data/insert?dry_run=true", "dry_run", "takes none", INSERT),
    unknown("of a batch", "POST", "/data/insert/batch?x=1", "x", "takes none", {"documents": [INSERT]}),
    unknown("of PUT", "PUT", f"{DOCUMENT}?{BOT}", "chat_bot_id", "takes none", INSERT),
    unknown("of PATCH", "PATCH", f"{DOCUMENT}/metadata?{BOT}", "chat_bot_id", "takes none", PATCH),
    unknown("of a batch of deletes", "POST", "/data/document/delete/batch?force=1", "force", "takes none", DELETE),
    unknown("of create", "POST", "/collection/create?x=1", "x", "takes none",
            {"chat_bot_id": "<bot>", "bot_name": "b", "collection_name": "<row>"}),
    unknown("of embeddings", "POST", "/v1/embeddings?api-version=1", "api-version", "takes none",
            {"model": "use-multilingual", "input": "x"}),
    unknown("with no value", "GET", f"{LIST}&offset", "offset", "unknown"),
    unknown("in capitals", "GET", f"{LIST}&LIMIT=2", "LIMIT", "unknown"),
    unknown("a name in Korean", "GET", f"{LIST}&%EA%B0%9C%EC%88%98=2", "개수", "unknown"),
    refused("two unknown ones", "GET", f"{LIST}&a=1&b=2", ("query.a", "unknown"), ("query.b", "unknown")),
    refused("one twice", "GET", f"{LIST}&limit=1&limit=2", ("query.limit", "more than once")),
    refused("EUC-KR in the query", "GET", f"{LIST}&account_name=%C7%D1%B1%DB", ("query", "not UTF-8")),
    refused("a body of DELETE", "DELETE", f"{DOCUMENT}?{BOT}", ("body", "takes no body"), body={"account_name": "x"}),
    refused("a body of GET", "GET", LIST, ("body", "takes no body"), body={"limit": 5}),
    Row("parameters", "an empty body of DELETE", Call("DELETE", f"{DOCUMENT}?{BOT}", {}), 200, {"status": "success"},
        [insert("t")]),
    Row("parameters", "those that are known", Call("GET", f"{LIST}&limit=1&cursor=0&account_name=chatty"), 200,
        {"documents": [{"title": "t"}]}, [insert("t")]),
    *(Row("parameters", f"a cache buster of {path}", Call("GET", f"{path}?_=1712"), 200)
      for path in ("/health", "/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json")),
]  # fmt: skip


def null(name: str, call: Call, status: int, answer: Any, *then: tuple[Call, int, Any]) -> Row:
    return Row("null", name, call, status, answer, [insert("t", author="a", metadata={"k": None})], then)


OPTIONS = ("account_name", "limit", "mode", "dense_weight", "filter", "score_threshold", "group_by_document",
           "distinct", "context_chunks", "rerank", "allow_partial")  # fmt: skip
FIELDS: dict[str, None] = dict.fromkeys(("file_path", "file_type", "author", "tags", "metadata"))
EMPTY = {"document": {"file_path": None, "file_type": None, "author": None, "tags": [], "metadata": {}}}
NULL: list[Row] = [
    *(null(f"{name} of a search", search(**{name: None}), 200, titles("t")) for name in OPTIONS),
    null("each option of a search batch",
         Call("POST", "/search/batch", {"chat_bot_id": "<bot>", "query_texts": [FOUND], **dict.fromkeys(OPTIONS)}), 200,
         {"status": "success"}),
    null("each of an insert", insert("n", **FIELDS), 201, {"status": "success"}, (search(), 200, titles("n", "t"))),
    null("each of PUT", Call("PUT", DOCUMENT, {"account_name": None, **document("n", **FIELDS)}), 200,
         {"status": "success"}, (get(), 200, EMPTY)),
    null("each of a batch", batch(document("n", **FIELDS)), 200, {"status": "success"},
         (search(), 200, titles("n", "t"))),
    null("beside a bad document of a batch", batch(document("n", **FIELDS), document(" ")), 200, {"status": "partial"},
         (search(), 200, titles("n", "t"))),
    null("a page number", Call("POST", "/data/insert", document("n") | {"chunks": [
         {"chunk_index": 0, "text": FOUND, "page_number": None}]}), 201, {"status": "success"}),
    null("account_name and dimension of create", Call("POST", "/collection/create", {
         "chat_bot_id": "<bot>", "bot_name": "account_name and dimension of create", "collection_name": "<row>",
         "account_name": None, "dimension": None}), 200, {"status": "success"}),
    null("account_name of PATCH", Call("PATCH", f"{DOCUMENT}/metadata", {"account_name": None, **PATCH}), 200,
         {"status": "success"}),
    null("account_name of a batch of deletes", Call("POST", "/data/document/delete/batch",
         {"account_name": None, **DELETE}), 200, {"deleted_documents": 1}),
    null("as of a filter", search({"type": "eq", "key": "metadata.k", "value": None, "as": None}), 200, titles("t")),
    null("a filter's value is a value", search({"type": "eq", "key": "metadata.k", "value": None}), 200, titles("t")),
    null("a value of PATCH removes", Call("PATCH", f"{DOCUMENT}/metadata", {"chat_bot_id": "<bot>",
         "metadata_updates": {"author": None, "k": None}}), 200, None,
         (get(), 200, {"document": {"author": None, "metadata": {}}})),
    null("what is required", Call("POST", "/search/query", QUERY | {"query_text": None}), 422,
         problem("invalid_input", ("body.query_text", "valid string"))),
    null("a title", insert(None), 422, problem("invalid_input", ("body.document.title", "valid string"))),  # type: ignore[arg-type]
]  # fmt: skip


def sent(name: str, content: bytes, kind: str, status: int, code: str, text: str, path: str = "/search/query") -> Row:
    call = Call("POST", path, content=content, headers={"Content-Type": kind})
    return Row("encoding", name, call, status, problem(code, ("body", text)))


GOOD = json.dumps(QUERY, ensure_ascii=False).encode()
SEND = "send JSON, with the header Content-Type: application/json"
ENCODING: list[Row] = [
    sent("no Content-Type", GOOD, "", 422, "invalid_input", SEND),
    sent("no Content-Type of an insert", json.dumps(INSERT).encode(), "", 422, "invalid_input", SEND, "/data/insert"),
    sent("no Content-Type of a batch", b'{"documents":[]}', "", 422, "invalid_input", SEND, "/data/insert/batch"),
    sent("text", GOOD, "text/plain", 422, "invalid_input", SEND),
    sent("a form", b"query_text=x", "application/x-www-form-urlencoded", 422, "invalid_input", SEND),
    sent("EUC-KR", EUC_KR.encode("euc-kr"), "application/json", 400, "malformed_body", "not as EUC-KR"),
    sent("EUC-KR, and said so", EUC_KR.encode("euc-kr"), "application/json; charset=euc-kr", 400, "malformed_body",
         "encoded as UTF-8"),
    sent("EUC-KR of an insert", "{\"document\": {\"title\": \"한글\"}}".encode("euc-kr"), "application/json", 400,
         "malformed_body", "encoded as UTF-8", "/data/insert"),
    Row("encoding", "UTF-8, and said so",
        Call("POST", "/search/query", content=GOOD, headers={"Content-Type": "application/json; charset=utf-8"}), 200),
    Row("encoding", "a JSON of its own kind",
        Call("POST", "/search/query", content=GOOD, headers={"Content-Type": "application/vnd.api+json"}), 200),
    Row("encoding", "no JSON", Call("POST", "/search/query", content=b"{'a': 1}"), 400, {"code": "malformed_body"}),
    Row("encoding", "a filter without a type", search({"key": "title", "value": "t"}), 422,
        {"code": "invalid_input", "detail": containing('has no "type"')}),
]  # fmt: skip

ROWS: list[Row] = PARAMETERS + NULL + ENCODING
