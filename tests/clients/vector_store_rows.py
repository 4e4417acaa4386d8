"""What clients of OpenAI's vector stores send, and what they read.

Sources: openai-python 3.57.0 (``openai/types/vector_store*.py``, ``openai/pagination.py``), openai-node 6.49 (the same
types), LiteLLM 1.110.2 (``llms/pg_vector`` and ``llms/openai/vector_stores``).
"""

from typing import Any

from tests.table.frame import FOUND, Call, Row, containing, insert

OPENAI, LITELLM = "openai 3.57.0", "litellm 1.110.2 pg_vector"
STORES = "/v1/vector_stores"
STORE = f"{STORES}/vs_<bot>"
FILE = f"{STORE}/files/file-<doc>"
LONG = "x" * 513
METADATA = {"a": 1, "b": "two", "c": True, "d": 1.5, "nested": {"x": [1]}, "none": None, "long": LONG, "list": ["e"]}
SHOWN = {"a": 1, "b": "two", "c": True, "d": 1.5}
THREE = [insert("one", metadata={"n": 1, "s": "x", "a.b": 1}), insert("two", metadata={"n": 2, "s": "y"}),
         insert("three", metadata={"n": 3, "deep": {"k": 1}})]  # fmt: skip
NULLS = {"filters": None, "max_num_results": None, "ranking_options": None, "rewrite_query": None}


def search(**fields: Any) -> Call:
    return Call("POST", f"{STORE}/search", {"query": FOUND, **fields})


def files(*expected: str) -> Any:
    """Of a search: the names of the files, in any order, each in the form of ``VectorStoreSearchResponse``."""

    def differ(answer: Any) -> str | None:
        for one in answer["data"]:
            if not one["file_id"].startswith("file-") or one["content"][0]["type"] != "text":
                return f"{one}"
            if not 0 <= one["score"] <= 1:
                return f"{one['score']}"
        found = sorted(one["filename"] for one in answer["data"])
        return None if found == sorted(expected) else f"found {found}, not {sorted(expected)}"

    return differ


def filtered(name: str, filters: Any, *expected: str) -> Row:
    return Row(OPENAI, f"filter: {name}", search(filters=filters), 200, files(*expected), THREE)


def compared(type: str, key: str, value: Any, *expected: str) -> Row:
    return filtered(f"{key} {type} {value!r}", {"type": type, "key": key, "value": value}, *expected)


def failed(
    name: str, status: int, code: str, text: str, call: Call, given: Any = (), kind: str = "invalid_request_error"
) -> Row:
    error = {"message": containing(text), "type": kind, "code": code}
    return Row(OPENAI, name, call, status, {"error": error}, given)


def names(*expected: str) -> Any:
    def differ(answer: Any) -> str | None:
        found = [one["filename"] for one in answer["data"]]
        ids = [one["id"] for one in answer["data"]] or [None]
        if (answer["first_id"], answer["last_id"]) != (ids[0], ids[-1]):
            return "first_id or last_id is wrong"
        return None if found == list(expected) else f"listed {found}"

    return differ


STORE_FORM = {
    "id": lambda found: None if found.startswith("vs_") and len(found) == 35 else found,
    "object": "vector_store", "status": "completed", "usage_bytes": 0, "chat_bot_id": "<bot>",
    "created_at": lambda found: None if isinstance(found, int) else found,
    "file_counts": {"in_progress": 0, "completed": 3, "failed": 0, "cancelled": 0, "total": 3},
    "expires_after": None, "expires_at": None, "last_active_at": None, "metadata": {},
}  # fmt: skip
FILE_FORM = {"object": "vector_store.file", "status": "completed", "last_error": None, "usage_bytes": 0,
             "attributes": SHOWN, "filename": "title", "metadata": METADATA,
             "created_at": lambda found: None if isinstance(found, int) else found}  # fmt: skip
TITLED = [insert("title", metadata=METADATA)]
UPLOAD = {"Content-Type": "multipart/form-data; boundary=x"}

ROWS: list[Row] = [
    Row(OPENAI, "retrieve", Call("GET", STORE), 200, STORE_FORM, THREE),
    Row(OPENAI, "retrieve by the UUID", Call("GET", f"{STORES}/<bot>"), 200, STORE_FORM, THREE),
    Row(OPENAI, "create", Call("POST", STORES, {"name": "made <row>"}), 200, {"name": "made <row>"}, (),
        [(Call("POST", STORES, {"name": "made <row>", "file_ids": None, "metadata": None}), 200,
          {"name": "made <row>", "file_counts": {"total": 0}})]),
    Row(LITELLM, "create", Call("POST", STORES, {"name": "<row>", "file_ids": None, "expires_after": None,
                                                 "chunking_strategy": None, "metadata": None}), 200, {"name": "<row>"}),
    Row(OPENAI, "create without a name", Call("POST", STORES, {}), 200, {"name": "vector store"}),
    failed("create with files", 400, "not_served", "POST /data/insert", Call("POST", STORES, {"file_ids": ["file-1"]})),
    failed("create with metadata", 400, "not_served", "no metadata", Call("POST", STORES, {"metadata": {"a": "b"}})),
    failed("create that expires", 400, "not_served", "expire",
           Call("POST", STORES, {"expires_after": {"anchor": "last_active_at", "days": 1}})),
    Row(OPENAI, "modify", Call("POST", STORE, {"name": "new", "metadata": None, "expires_after": None}), 200,
        {"name": "new"}, (), [(Call("GET", STORE), 200, {"name": "new"})]),
    Row(OPENAI, "modify nothing", Call("POST", STORE, {"name": None}), 200, {"object": "vector_store"}),
    Row(OPENAI, "delete", Call("DELETE", STORE), 200, {"object": "vector_store.deleted", "deleted": True}, (),
        [(Call("GET", STORE), 404, {"error": {"code": "bot_not_found"}})]),
    failed("an unknown store", 404, "bot_not_found", "no bot", Call("GET", f"{STORES}/vs_" + 32 * "0")),
    failed("an id of another kind", 404, "bot_not_found", "no bot", Call("GET", f"{STORES}/vs_abc123")),
    failed("list: an unknown after", 404, "bot_not_found", "no bot", Call("GET", f"{STORES}?after=vs_" + 32 * "0")),
    failed("list: an unknown before", 404, "bot_not_found", "no bot", Call("GET", f"{STORES}?before=x")),
    failed("list: a limit of 101", 422, "invalid_input", "100", Call("GET", f"{STORES}?limit=101")),
    failed("list: an order of its own", 422, "invalid_input", "asc", Call("GET", f"{STORES}?order=up")),
    Row(OPENAI, "search", search(), 200, {"object": "vector_store.search_results.page", "search_query": [FOUND],
                                          "has_more": False, "next_page": None}, THREE),
    Row(OPENAI, "search finds", search(), 200, files("one", "two", "three"), THREE),
    Row(LITELLM, "search with nulls", search(**NULLS), 200, files("one", "two", "three"), THREE),
    Row(LITELLM, "search for a list", search(query=[FOUND, "one"], **NULLS), 200,
        lambda answer: None if len({one["chunk_id"] for one in answer["data"]}) == 3 == len(answer["data"])
        else "not each once", THREE),
    Row(OPENAI, "search: max_num_results", search(max_num_results=1), 200,
        lambda answer: None if len(answer["data"]) == 1 else "not one", THREE),
    Row(OPENAI, "search: ranking_options",
        search(ranking_options={"ranker": "default-2024-11-15", "score_threshold": 1.0}), 200,
        lambda answer: None if all(one["score"] == 1 for one in answer["data"]) else "below", THREE),
    Row(OPENAI, "search: rewrite_query", search(rewrite_query=True), 200, {"search_query": [FOUND]}, THREE),
    Row(OPENAI, "search: attributes", search(), 200,
        {"data": [{"filename": "title", "attributes": SHOWN, "metadata": METADATA}]}, TITLED),
    failed("search: max_num_results of 51", 422, "invalid_input", "50", search(max_num_results=51)),
    failed("search: no query", 422, "invalid_input", "query", Call("POST", f"{STORE}/search", {})),
    failed("search: a blank query", 422, "invalid_input", "white space", search(query=[" "])),
    failed("search: an unknown field", 422, "invalid_input", "not permitted", search(top_k=1)),
    compared("eq", "n", 1, "one"),
    compared("ne", "n", 1, "two", "three"),
    compared("gt", "n", 1, "two", "three"),
    compared("gte", "n", 2, "two", "three"),
    compared("lt", "n", 2, "one"),
    compared("lte", "n", 2.0, "one", "two"),
    compared("in", "s", ["x", "z"], "one"),
    compared("nin", "s", ["x"], "two", "three"),
    compared("eq", "a.b", 1, "one"),
    compared("eq", "metadata.deep.k", 1, "three"),
    compared("eq", "document.title", "two", "two"),
    filtered("and", {"type": "and", "filters": [{"type": "gt", "key": "n", "value": 1},
                                                {"type": "eq", "key": "s", "value": "y"}]}, "two"),
    filtered("or in and", {"type": "and", "filters": [
        {"type": "or", "filters": [{"type": "eq", "key": "n", "value": 1}, {"type": "eq", "key": "n", "value": 3}]},
        {"type": "ne", "key": "s", "value": "x"}]}, "three"),
    failed("filter: an unknown type", 422, "invalid_input", "'like'",
           search(filters={"type": "like", "key": "n", "value": 1})),
    failed("filter: no type", 422, "invalid_input", "type", search(filters={"key": "n"})),
    Row(OPENAI, "files: newest first", Call("GET", f"{STORE}/files"), 200, names("three", "two", "one"), THREE),
    Row(OPENAI, "files: ascending", Call("GET", f"{STORE}/files?order=asc"), 200, names("one", "two", "three"), THREE),
    Row(OPENAI, "files: a page", Call("GET", f"{STORE}/files?order=asc&limit=2"), 200, {"has_more": True}, THREE),
    Row(OPENAI, "files: before", Call("GET", f"{STORE}/files?order=asc&before=file-<doc>&limit=1"), 200, names("two"),
        THREE),
    Row(OPENAI, "files: after, descending", Call("GET", f"{STORE}/files?after=file-<doc>"), 200, names("two", "one"),
        THREE),
    Row(OPENAI, "files: before, descending", Call("GET", f"{STORE}/files?before=file-<doc>"), 200, names(), THREE),
    Row(OPENAI, "files: after the last", Call("GET", f"{STORE}/files?order=asc&after=file-<doc>"), 200,
        {"data": [], "has_more": False, "first_id": None, "last_id": None}, THREE),
    Row(OPENAI, "files: a cursor that was deleted", Call("GET", f"{STORE}/files?order=asc&after=1"), 200,
        names("one", "two", "three"), THREE),
    Row(OPENAI, "files: completed", Call("GET", f"{STORE}/files?filter=completed"), 200,
        names("three", "two", "one"), THREE),
    Row(OPENAI, "files: failed", Call("GET", f"{STORE}/files?filter=failed"), 200, names(), THREE),
    failed("files: a cursor of another kind", 404, "document_not_found", "file-",
           Call("GET", f"{STORE}/files?after=x")),
    Row(OPENAI, "file", Call("GET", FILE), 200, FILE_FORM, TITLED),
    Row(OPENAI, "file by its doc_id", Call("GET", f"{STORE}/files/<doc>"), 200, FILE_FORM, TITLED),
    Row(OPENAI, "file content", Call("GET", f"{FILE}/content"), 200,
        {"object": "vector_store.file_content.page", "has_more": False, "next_page": None,
         "data": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, [insert("two chunks", "a", "b")]),
    Row(OPENAI, "attributes are merged", Call("POST", FILE, {"attributes": {"a": 2, "new": "x"}}), 200,
        {"attributes": SHOWN | {"a": 2, "new": "x"}, "metadata": METADATA | {"a": 2, "new": "x"}}, TITLED,
        [(Call("POST", FILE, {"attributes": {"new": None}}), 200, {"metadata": METADATA | {"a": 2}}),
         (Call("POST", FILE, {"attributes": None}), 200, {"metadata": METADATA | {"a": 2}})]),
    failed("attributes: a list", 422, "invalid_input", "attributes",
           Call("POST", FILE, {"attributes": {"a": []}}), TITLED),
    failed("attributes: too long", 422, "invalid_input", "512",
           Call("POST", FILE, {"attributes": {"a": LONG}}), TITLED),
    failed("attributes: 17", 422, "invalid_input", "16",
           Call("POST", FILE, {"attributes": {str(number): 1 for number in range(17)}}), TITLED),
    Row(OPENAI, "delete a file", Call("DELETE", FILE), 200, {"object": "vector_store.file.deleted", "deleted": True},
        TITLED, [(Call("GET", FILE), 404, {"error": {"code": "document_not_found"}}),
                 (Call("DELETE", FILE), 404, {"error": {"code": "document_not_found"}})]),
    failed("an unknown file", 404, "document_not_found", "no document", Call("GET", f"{STORE}/files/file-9999999")),
    failed("an id of another file", 404, "document_not_found", "file-", Call("GET", f"{STORE}/files/file-abc")),
    failed("attach a file", 400, "not_served", "POST /data/insert",
           Call("POST", f"{STORE}/files", {"file_id": "file-1"})),
    failed("attach a batch", 400, "not_served", "POST /data/insert",
           Call("POST", f"{STORE}/file_batches", {"file_ids": ["file-1"]})),
    failed("upload a file", 400, "not_served", "POST /data/insert",
           Call("POST", "/v1/files", content=b"--x\r\n\r\n--x--", headers=UPLOAD)),
    failed("a bad key", 401, "unauthorized", "not valid",
           Call("GET", STORES, headers={"Authorization": "Bearer sk-x"}), kind="authentication_error"),
]  # fmt: skip
