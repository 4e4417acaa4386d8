"""The MCP client uses the tools of a server with API keys, by three revisions of the protocol, over a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
import httpx2
import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

from tests.clients.conftest import Platform, new_bot, new_document

MODES = ["legacy", "2026-07-28"]
INITIALIZE = {"capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
ACCEPT = {"Accept": "application/json, text/event-stream"}
TOOLS = ["fetch", "insert_document", "list_bots", "search"]


@asynccontextmanager
async def connected(platform: Platform, mode: str, path: str = "", key: str | None = None) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {key or platform.write_key}"}
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        transport = streamable_http_client(f"{platform.address}/mcp{path}", http_client=http)
        async with Client(transport, mode=mode) as client:
            yield client


@pytest.mark.parametrize("mode", MODES)
async def test_the_tools_of_all_bots(platform: Platform, http: httpx.Client, bot: str, mode: str) -> None:
    async with connected(platform, mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert sorted(tools) == TOOLS
        assert all(tool.output_schema and tool.description for tool in tools.values())
        bots = (await client.call_tool("list_bots", {})).structured_content["bots"]
        assert bot in [one["chat_bot_id"] for one in bots]
        given = {"chat_bot_id": bot, "title": "경복궁", "texts": ["화요일에 쉰다.", "광화문"], "metadata": {"n": 1}}
        inserted = await client.call_tool("insert_document", given)
        assert not inserted.is_error, inserted
        doc_id = inserted.structured_content["doc_id"]
        found = await client.call_tool("search", {"chat_bot_id": bot, "query": "화요일에 쉬나요?", "limit": 1})
        (result,) = found.structured_content["results"]
        assert (result["doc_id"], result["text"], result["metadata"]) == (doc_id, "화요일에 쉰다.", {"n": 1})
        assert json.loads(found.content[0].text) == found.structured_content
        other = {"type": "gt", "key": "metadata.n", "value": 1}
        none = await client.call_tool("search", {"chat_bot_id": bot, "query": "쉬나요", "filter": other})
        assert none.structured_content == {"results": []}
        first = (await client.call_tool("fetch", {"chat_bot_id": bot, "doc_id": doc_id, "limit": 1})).structured_content
        assert [chunk["text"] for chunk in first["chunks"]] == ["화요일에 쉰다."]
        more = {"chat_bot_id": bot, "doc_id": doc_id, "cursor": first["next_cursor"]}
        rest = (await client.call_tool("fetch", more)).structured_content
        assert ([chunk["text"] for chunk in rest["chunks"]], rest["next_cursor"]) == (["광화문"], None)


@pytest.mark.parametrize("mode", MODES)
async def test_the_tools_of_connectors(platform: Platform, http: httpx.Client, bot: str, mode: str) -> None:
    doc_id = new_document(http, bot, "경복궁은 화요일에 쉰다.", "광화문", title="궁")
    page = new_document(http, bot, "한강", file_path="https://example.org/han", metadata={"n": 1})
    async with connected(platform, mode, f"/{bot}", platform.read_key) as client:
        assert sorted(tool.name for tool in (await client.list_tools()).tools) == ["fetch", "search"]
        found = json.loads((await client.call_tool("search", {"query": "화요일에 쉬나요?"})).content[0].text)
        assert found["results"][0] == {
            "id": str(doc_id), "title": "궁", "url": f"{platform.address}/data/document/{doc_id}?chat_bot_id={bot}"
        }  # fmt: skip
        document = json.loads((await client.call_tool("fetch", {"id": str(doc_id)})).content[0].text)
        assert document["text"] == "경복궁은 화요일에 쉰다.\n\n광화문"
        read = await asyncio.to_thread(http.get, document["url"])
        assert read.json()["document"]["title"] == "궁"
        other = (await client.call_tool("fetch", {"id": str(page)})).structured_content
        assert (other["url"], other["metadata"]) == ("https://example.org/han", {"n": 1})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("search", {"query": "x"}, "chat_bot_id: Field required"),
        ("search", {"chat_bot_id": "<bot>", "query": " "}, "query: must hold more than white space"),
        ("search", {"chat_bot_id": "<bot>", "query": "x", "filter": {"type": "like"}}, "unknown type 'like'"),
        ("search", {"chat_bot_id": "<bot>", "query": "x", "limit": 51}, "limit: "),
        ("search", {"chat_bot_id": str(uuid4()), "query": "x"}, "There is no bot with this chat_bot_id."),
        ("fetch", {"chat_bot_id": "<bot>", "doc_id": 99}, "This bot has no document 99."),
        ("insert_document", {"chat_bot_id": "<bot>", "title": "x", "texts": []}, "texts: "),
        ("insert_document", {"chat_bot_id": str(uuid4()), "title": "x", "texts": ["x"]}, "There is no bot"),
        ("unknown", {}, "There is no tool 'unknown'"),
    ],
)
async def test_a_model_reads_what_was_wrong(
    platform: Platform, bot: str, mode: str, tool: str, arguments: dict[str, Any], said: str
) -> None:
    async with connected(platform, mode) as client:
        answer = await client.call_tool(tool, {k: bot if v == "<bot>" else v for k, v in arguments.items()})
    assert answer.is_error
    assert said in answer.content[0].text


async def test_a_read_key_has_no_tool_that_writes(platform: Platform, bot: str) -> None:
    async with connected(platform, MODES[0], key=platform.read_key) as client:
        assert sorted(tool.name for tool in (await client.list_tools()).tools) == ["fetch", "list_bots", "search"]
        answer = await client.call_tool("insert_document", {"chat_bot_id": bot, "title": "x", "texts": ["x"]})
    assert answer.is_error
    assert answer.content[0].text == "There is no tool 'insert_document' for this API key."


async def test_another_accounts_bot_is_unknown_to_every_tool(platform: Platform, http: httpx.Client, bot: str) -> None:
    doc_id, absent = new_document(http, bot, "secret"), str(uuid4())

    async def said(client: Client, tool: str, **arguments: Any) -> str:
        answer = await client.call_tool(tool, arguments)
        assert answer.is_error
        text: str = answer.content[0].text
        return text

    async with connected(platform, MODES[1], key=platform.other_key) as client:
        listed = (await client.call_tool("list_bots", {})).structured_content["bots"]
        assert bot not in [one["chat_bot_id"] for one in listed]
        for arguments in ({"tool": "search", "query": "secret"}, {"tool": "fetch", "doc_id": doc_id},
                          {"tool": "insert_document", "title": "x", "texts": ["x"]}):  # fmt: skip
            found, missing = [await said(client, **arguments, chat_bot_id=one) for one in (bot, absent)]
            assert found == missing
    for path in (bot, absent):
        async with connected(platform, MODES[1], f"/{path}", platform.other_key) as client:
            for tool, arguments in (("search", {"query": "secret"}), ("fetch", {"id": str(doc_id)})):
                assert await said(client, tool, **arguments) == "There is no bot with this chat_bot_id."


@pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25"])
def test_older_clients_shake_hands(http: httpx.Client, version: str) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {**INITIALIZE, "protocolVersion": version}}
    answer = http.post("/mcp", json=body, headers=ACCEPT)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["result"]["protocolVersion"] == version
    assert "mcp-session-id" not in answer.headers
    ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    headers = {**ACCEPT, "MCP-Protocol-Version": version}
    assert http.post("/mcp", json=ready, headers=headers).status_code == 202
    listed = http.post("/mcp", json={"jsonrpc": "2.0", "id": 2, "method": "tools/list"}, headers=headers).json()
    assert sorted(tool["name"] for tool in listed["result"]["tools"]) == TOOLS


@pytest.mark.parametrize("path", ["/mcp", "/mcp/", "/mcp/7f3c1e9a-2b4d-4c6e-8f10-1a2b3c4d5e6f"])
def test_a_request_without_a_valid_key_is_challenged(platform: Platform, path: str) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    for headers, challenge in (
        ({}, 'Bearer realm="chat-memory"'),
        ({"Authorization": "Bearer wrong"}, 'Bearer realm="chat-memory", error="invalid_token"'),
    ):
        answer = httpx.post(f"{platform.address}{path}", json=body, headers={**ACCEPT, **headers})
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, challenge)
        assert answer.json()["code"] == "unauthorized"


@pytest.mark.parametrize("name", ["oauth-protected-resource", "oauth-protected-resource/mcp",
                                  "oauth-authorization-server", "oauth-authorization-server/mcp"])  # fmt: skip
def test_there_is_no_oauth(platform: Platform, name: str) -> None:
    answer = httpx.get(f"{platform.address}/.well-known/{name}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_limits_hold(platform: Platform, http: httpx.Client) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    for path in ("/mcp", "/mcp/", f"/mcp/{new_bot(http)}", f"/mcp/{new_bot(http)}/"):
        assert http.post(path, json=body, headers=ACCEPT).status_code == 200
        answer = http.get(path, headers=ACCEPT)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        large = http.post(path, content=b" " * 1_000_001, headers={**ACCEPT, "Content-Type": "application/json"})
        assert (large.status_code, large.json()["code"]) == (413, "body_too_large")
    assert http.post("/mcp/no-uuid", json=body, headers=ACCEPT).status_code == 422
    assert http.post("/mcp", content=b"{", headers={**ACCEPT, "Content-Type": "application/json"}).status_code == 400
