"""Requests that are rejected as a whole: a 4xx problem, and nothing stored.

Bodies that are not a JSON object or too large, invalid parameters, unknown bots, documents and addresses.
"""

import json
from typing import Any

import pytest

from tests.api.rejections import HUGE, FilledServer, put

DEPTH = 20_000


@pytest.mark.parametrize("call", ["create", "insert", "batch", "put", "patch", "delete", "search", "search_batch"])
async def test_empty_object_is_rejected(server: FilledServer, call: str) -> None:
    method, url, _ = server.calls[call]
    await server.assert_rejected(await server.raw(method, url, b"{}"), "body")


@pytest.mark.parametrize("call", ["insert", "batch"])
async def test_too_many_chunks_are_rejected(server: FilledServer, call: str) -> None:
    chunks = [{"chunk_index": number % 65_536, "text": "x"} for number in range(65_537)]
    if call == "insert":
        await server.assert_rejected(await server.send(call, put("chunks", chunks)), "body.chunks")
    else:
        document = server.calls["insert"][2]
        most = {"document": document["document"], "chunks": chunks[:65_535]}
        two = {"document": document["document"], "chunks": document["chunks"]}
        await server.assert_rejected(await server.send(call, put("documents", [most, two])), "body")


BODIES = {
    "nothing": b"",
    "not_json": b"{title: 1}",
    "cut": b'{"chat_bot_id": "',
    "no_utf8": b'{"chat_bot_id": "\xff\xfe"}',
    "array": b"[]",
    "null": b"null",
    "string": b'"x"',
    "deep": b"[" * DEPTH + b"]" * DEPTH,
    "deep_objects": b'{"a":' * DEPTH + b"1" + b"}" * DEPTH,
    "digits": b"1" * 5_000,
    "deep_inside": b'{"document": {"metadata": {"a": ' + b"[" * DEPTH + b"]" * DEPTH + b"}}}",
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("call", ["create", "insert", "patch", "search"])
async def test_body_that_is_not_a_json_object_is_rejected(server: FilledServer, call: str, name: str) -> None:
    method, url, _ = server.calls[call]
    answer = await server.raw(method, url, BODIES[name])
    assert answer.status_code in (400, 422)
    await server.assert_rejected(answer, "body", answer.status_code)


@pytest.mark.parametrize("type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_body_of_another_content_type_is_rejected(server: FilledServer, type: str) -> None:
    method, url, body = server.calls["insert"]
    answer = await server.raw(method, url, json.dumps(body).encode(), type)
    assert answer.status_code in (415, 422)
    await server.assert_rejected(answer, "body", answer.status_code)


OTHER = "0f0e0d0c-0b0a-4908-8706-050403020100"  # The same in each process: it is part of tests' names.


@pytest.mark.parametrize(
    ("method", "url", "loc"),
    [
        ("GET", f"/data/document/{HUGE}?chat_bot_id={OTHER}", "path.doc_id"),
        ("GET", f"/data/document/0?chat_bot_id={OTHER}", "path.doc_id"),
        ("GET", f"/data/document/x?chat_bot_id={OTHER}", "path.doc_id"),
        ("DELETE", f"/data/document/{10**400}?chat_bot_id={OTHER}", "path.doc_id"),
        ("GET", "/data/document/1?chat_bot_id=no-uuid", "query.chat_bot_id"),
        ("GET", "/data/document/1", "query.chat_bot_id"),
        ("GET", f"/data/documents?chat_bot_id={OTHER}&cursor=%00", "query.cursor"),
        ("GET", f"/data/documents?chat_bot_id={OTHER}&cursor=-1", "query.cursor"),
        ("GET", f"/data/documents?chat_bot_id={OTHER}&cursor={HUGE}", "query.cursor"),
        ("GET", f"/data/documents?chat_bot_id={OTHER}&limit=0", "query.limit"),
        ("GET", f"/data/documents?chat_bot_id={OTHER}&limit=1001", "query.limit"),
        ("GET", "/collection/list?account_name=", "query.account_name"),
        ("GET", "/collection/list?account_name=%20", "query.account_name"),
        ("GET", "/collection/list?account_name=a%00", "query.account_name"),
        ("GET", "/collection/no-uuid", "path.chat_bot_id"),
        ("DELETE", "/collection/no-uuid", "path.chat_bot_id"),
        ("DELETE", f"/collection/{OTHER}?account_name=%00", "query.account_name"),
    ],
)
async def test_invalid_parameter_is_rejected(server: FilledServer, method: str, url: str, loc: str) -> None:
    await server.assert_rejected(await server.bot.http.request(method, url), loc)


@pytest.mark.parametrize("what", ["bot", "account"])
@pytest.mark.parametrize("call", ["insert", "batch", "put", "patch", "delete", "search"])
async def test_unknown_bot_and_another_accounts_bot_are_not_found(server: FilledServer, call: str, what: str) -> None:
    def change(body: Any) -> None:
        holders = [item["document"] for item in body.get("documents", [])] or [body.get("document", body)]
        for holder in holders:
            if what == "bot":
                holder["chat_bot_id"] = OTHER
        if what == "account":
            body["account_name"] = "another account"

    answer = await server.send(call, change)
    await server.assert_rejected(answer, None, 404)
    assert answer.json()["code"] == "bot_not_found"


@pytest.mark.parametrize("suffix", ["", "&account_name=else"])
@pytest.mark.parametrize(
    ("method", "url"),
    [("GET", "/data/document/{doc}?chat_bot_id={bot}"), ("DELETE", "/data/document/{doc}?chat_bot_id={bot}"),
     ("GET", "/data/documents?chat_bot_id={bot}"), ("GET", "/collection/{bot}?"), ("DELETE", "/collection/{bot}?")],
)  # fmt: skip
async def test_unknown_bot_and_another_accounts_bot_are_not_found_by_url(
    server: FilledServer, method: str, url: str, suffix: str
) -> None:
    bot = server.bot.bot_id if suffix else OTHER
    answer = await server.bot.http.request(method, url.format(doc=server.doc_id, bot=bot) + suffix)
    await server.assert_rejected(answer, None, 404)
    assert answer.json()["code"] == "bot_not_found"


@pytest.mark.parametrize("call", ["put", "patch", "get", "delete"])
async def test_unknown_document_is_not_found(server: FilledServer, call: str) -> None:
    unknown = server.doc_id + 10**6
    if call in ("put", "patch"):
        method, url, body = server.calls[call]
        url = url.replace(str(server.doc_id), str(unknown))
        answer = await server.raw(method, url, json.dumps(body).encode())
    else:
        url = f"/data/document/{unknown}?chat_bot_id={server.bot.bot_id}"
        answer = await server.bot.http.request(call.upper(), url)
    await server.assert_rejected(answer, None, 404)
    assert answer.json()["code"] == "document_not_found"


async def test_unknown_address_and_method_are_rejected(server: FilledServer) -> None:
    await server.assert_rejected(await server.bot.http.get("/nothing"), None, 404)
    await server.assert_rejected(await server.bot.http.get("/search/query"), None, 405)
