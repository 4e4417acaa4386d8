"""Limits of answers and pages, and the host names and origins that may call the server."""

from typing import Any

from tests.table.frame import Call, Row, containing, get, insert, patch, problem, search

THREE = [insert("t", "하나", "둘", "셋")]


def page(query: str) -> Call:
    return Call("GET", f"/data/document/<doc>?chat_bot_id=<bot>&{query}")


def batch(texts: int, **options: Any) -> Call:
    return Call("POST", "/search/batch", {"chat_bot_id": "<bot>", "query_texts": ["낱말"] * texts, **options})


def texts(*expected: str, more: bool = False) -> dict[str, Any]:
    def cursor(found: Any) -> str | None:
        return None if isinstance(found, str) == more else f"{found!r}"

    return {"chunk_count": 3, "chunks": [{"text": text} for text in expected], "next_cursor": cursor}


def refused(name: str, call: Call, loc: str, text: str = "") -> Row:
    return Row("bounds", name, call, 422, problem("invalid_input", (loc, text)), THREE)


def host(name: str, status: int, path: str = "/collection/list", **headers: str) -> Row:
    code = "origin_not_allowed" if "Origin" in headers else "host_not_allowed"
    expected = {"code": code, "detail": containing("ALLOWED_HOSTS")} if status == 403 else None
    return Row("hosts", name, Call("GET", path, headers=headers), status, expected)


TOO_MANY = "more than 10,000 texts, context included"
FOREIGN = "https://attacker.example"

ROWS: list[Row] = [
    Row("bounds", "10,000 results", search(limit=10_000), 200, given=THREE),
    refused("10,001 results", search(limit=10_001), "body.limit"),
    Row("bounds", "243 results with 20 chunks around each", search(limit=243, context_chunks=20), 200, given=THREE),
    refused("244 results with 20 chunks around each", search(limit=244, context_chunks=20), "body.context_chunks",
            TOO_MANY),
    refused("10,000 results with a chunk around each", search(limit=10_000, context_chunks=1), "body.context_chunks",
            TOO_MANY),
    refused("21 chunks around", search(limit=1, context_chunks=21), "body.context_chunks"),
    Row("bounds", "two texts, 121 results with 20 chunks around each", batch(2, limit=121, context_chunks=20), 200,
        given=THREE),
    refused("two texts, 122 results with 20 chunks around each", batch(2, limit=122, context_chunks=20),
            "body.context_chunks", TOO_MANY),
    refused("64 texts of 157 results", batch(64, limit=157), "body", "queries times limit"),
    refused("reranking without a reranker", search(rerank=True), "body.rerank", "RERANK_MODEL"),
    Row("bounds", "a document without a limit", get(), 200, texts("하나", "둘", "셋"), THREE),
    Row("bounds", "a document's first two chunks", page("limit=2"), 200, texts("하나", "둘", more=True), THREE),
    Row("bounds", "a document of as many chunks as asked for", page("limit=3"), 200, texts("하나", "둘", "셋"), THREE),
    Row("bounds", "a cursor past the end", page(f"cursor={2**63 - 1}"), 200, texts(), THREE),
    Row("bounds", "a cursor of another version", page("cursor=1"), 409,
        problem("document_changed", ("query.cursor", "")), THREE),
    refused("no chunks", page("limit=0"), "query.limit"),
    refused("1,001 chunks", page("limit=1001"), "query.limit"),
    refused("a limit that is no number", page("limit=all"), "query.limit"),
    refused("a cursor below 0", page("cursor=-1"), "query.cursor"),
    refused("a cursor that is no number", page("cursor=x"), "query.cursor"),
    refused("a cursor above 64 bits", page(f"cursor={2**63}"), "query.cursor"),
    refused("1,001 documents", Call("GET", "/data/documents?chat_bot_id=<bot>&limit=1001"), "query.limit"),
    host("localhost", 200, Host="localhost"),
    host("localhost with a port", 200, Host="LOCALHOST:8000"),
    host("127.0.0.1", 200, Host="127.0.0.1:1"),
    host("[::1]", 200, Host="[::1]:8000"),
    host("a name that points at 127.0.0.1", 403, Host="attacker.example:8000"),
    host("a name that begins with localhost", 403, Host="localhost.attacker.example"),
    host("metrics under another name", 403, "/metrics", Host="attacker.example"),
    host("documentation under another name", 403, "/docs", Host="attacker.example"),
    host("a probe under another name", 200, "/health/live", Host="10.0.0.7"),
    host("the documentation's own page", 200, Host="localhost:8000", Origin="http://localhost:8000"),
    host("another page of this machine", 200, Origin="http://127.0.0.1:3000"),
    host("a page of another site", 403, Origin=FOREIGN),
    host("a page without an origin", 403, Origin="null"),
    Row("hosts", "a page of another site changes nothing",
        Call("DELETE", "/data/document/<doc>?chat_bot_id=<bot>", headers={"Origin": FOREIGN}), 403,
        problem("origin_not_allowed"), THREE, [(get(), 200, texts("하나", "둘", "셋"))]),
    Row("hosts", "a PATCH of a page of another site",
        Call("PATCH", "/data/document/<doc>/metadata", patch({"author": "x"}).body, headers={"Origin": FOREIGN}), 403,
        problem("origin_not_allowed"), THREE, [(get(), 200, {"document": {"author": None}})]),
    Row("accounts", "another account's name", search(account_name="other"), 404, problem("bot_not_found")),
    Row("accounts", "another account's name in a list", Call("GET", "/collection/list?account_name=other"), 200,
        {"total": 0, "bots": []}),
]  # fmt: skip
