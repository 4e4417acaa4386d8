"""Whatever is wrong with a request: a 4xx problem that names the place, and nothing stored."""

import copy
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.config import Settings
from app.core.connect import Stores
from app.core.embedding.hash_embedder import HashEmbedder
from app.core.services import Services, build_services
from app.core.stores.address import PostgresAddress
from app.core.stores.postgres.database import Database
from app.main import create_app
from tests.api.conftest import Contents, contents
from tests.conftest import BotClient, _with_state, fresh_database, register
from tests.doubles.memory_index import MemoryIndex

NUL, LONE = "a\x00b", "a\ud800b"
HUGE = 2**63
TOO_LARGE_FLOAT = "@1e999999@"  # No Python value is written so: replaced in the JSON text.
NAN, INFINITE = float("nan"), float("-inf")
DEPTH = 20_000


@dataclass
class Place:
    """A server that holds one bot with one document, and what it stores."""

    bot: BotClient
    doc_id: int
    db: Database
    index: MemoryIndex
    before: Contents

    @property
    def calls(self) -> dict[str, tuple[str, str, Any]]:
        """Each call that takes a body, with a good one."""
        bot_id = str(self.bot.bot_id)
        document = {
            "document": {
                "chat_bot_id": bot_id, "title": "t", "file_path": "p", "file_type": "txt", "author": "a",
                "tags": ["x"], "metadata": {"key": "value"},
            },
            "chunks": [{"chunk_index": 0, "text": "one", "page_number": 1}, {"chunk_index": 1, "text": "two"}],
        }  # fmt: skip
        account = {"account_name": "chatty"}
        changes = {"metadata_updates": {"title": "new", "tags": ["y"], "other": 1}}
        create = {"chat_bot_id": str(uuid4()), "bot_name": "b", "collection_name": f"c_{uuid4().hex}"}
        return {
            "create": ("POST", "/collection/create", account | create | {"dimension": 64}),
            "insert": ("POST", "/data/insert", account | document),
            "batch": ("POST", "/data/insert/batch", account | {"documents": [document]}),
            "put": ("PUT", f"/data/document/{self.doc_id}", account | document),
            "patch": ("PATCH", f"/data/document/{self.doc_id}/metadata", account | {"chat_bot_id": bot_id} | changes),
            "delete": ("POST", "/data/document/delete/batch", account | {"chat_bot_id": bot_id, "doc_ids": [10**9]}),
            "search": ("POST", "/search/query", account | {"chat_bot_id": bot_id, "query_text": "q", "limit": 5}),
            "search_batch": ("POST", "/search/batch", account | {"chat_bot_id": bot_id, "query_texts": ["q", "r"]}),
        }

    async def send(self, call: str, change: Any = None) -> httpx.Response:
        method, url, body = self.calls[call]
        body = copy.deepcopy(body)
        if change:
            change(body)
        text = json.dumps(body).replace(f'"{TOO_LARGE_FLOAT}"', TOO_LARGE_FLOAT.strip("@"))
        return await self.raw(method, url, text.encode())

    async def raw(self, method: str, url: str, content: bytes, type: str = "application/json") -> httpx.Response:
        return await self.bot.http.request(method, url, content=content, headers={"content-type": type})

    async def refused(self, answer: httpx.Response, loc: str | None, status: int = 422) -> None:
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["status"] == status
        assert problem["code"]
        assert problem["request_id"] == answer.headers["x-request-id"]
        if loc is not None:
            locs = [error["loc"] for error in problem["errors"]]
            assert any(found == loc or found.startswith(f"{loc}.") for found in locs), locs
        assert await contents(self.db, self.index) == self.before


@pytest.fixture(scope="module")
async def place(postgres_server: PostgresAddress) -> AsyncIterator[Place]:
    """One for all cases: each must leave it as it was."""
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(fresh_database(postgres_server))
        db = await Database.connect(address, min_size=1, max_size=4, timeout=10)
        stack.push_async_callback(db.close)
        index = MemoryIndex()
        settings = Settings(_env_file=None, auth_disabled=True)
        services = await stack.enter_async_context(
            build_services(settings, Stores(db, index, timedelta(0)), HashEmbedder(dimension=64))
        )

        @asynccontextmanager
        async def given() -> AsyncIterator[Services]:
            yield services

        app = create_app(settings, services=given())
        state = await stack.enter_async_context(app.router.lifespan_context(app))
        transport = httpx.ASGITransport(app=_with_state(app, dict(state)))
        client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://server"))
        bot = await register(client)
        doc_id = await bot.insert("광화문", "한강", metadata={"language": "ko"})
        yield Place(bot, doc_id, db, index, await contents(db, index))


def put(path: str, value: Any) -> Any:
    """Sets what stands at ``path`` in a body, such as ``chunks.0.text``."""
    *steps, last = path.split(".")

    def change(body: Any) -> None:
        for step in steps:
            body = body[int(step)] if isinstance(body, list) else body[step]
        body[int(last) if isinstance(body, list) else last] = value

    return change


STRINGS = {
    "create": ["account_name", "chat_bot_id", "bot_name", "collection_name"],
    "insert": [
        "account_name", "document.chat_bot_id", "document.title", "document.file_path", "document.file_type",
        "document.author", "document.tags.0", "document.metadata.key", "chunks.1.text",
    ],
    "batch": ["account_name", "documents.0.document.title", "documents.0.chunks.1.text"],
    "put": ["document.title", "document.metadata.key", "chunks.0.text"],
    "patch": [
        "account_name", "chat_bot_id", "metadata_updates.title", "metadata_updates.file_path",
        "metadata_updates.file_type", "metadata_updates.author", "metadata_updates.tags.0", "metadata_updates.other",
    ],
    "delete": ["account_name", "chat_bot_id"],
    "search": ["account_name", "chat_bot_id", "query_text", "mode"],
    "search_batch": ["account_name", "chat_bot_id", "query_texts.1", "mode"],
}  # fmt: skip
# Inside metadata the whole object is named.
WHOLE = {"document.metadata.key": "document.metadata", "metadata_updates.other": "metadata_updates"}


def string_cases() -> Iterator[Any]:
    for call, paths in STRINGS.items():
        for path in paths:
            for name, value in {"nul": NUL, "lone": LONE, "number": 7, "null": None}.items():
                nullable = path in ("account_name", "metadata_updates.other", "mode")
                optional = path.rsplit(".", 1)[-1] in ("file_path", "file_type", "author")
                in_json = path in WHOLE
                if (name == "null" and (nullable or optional or in_json)) or (name == "number" and in_json):
                    continue
                yield pytest.param(call, path, value, id=f"{call}-{path}-{name}")


@pytest.mark.parametrize(("call", "path", "value"), list(string_cases()))
async def test_string_that_cannot_be_stored(place: Place, call: str, path: str, value: Any) -> None:
    await place.refused(await place.send(call, put(path, value)), f"body.{WHOLE.get(path, path)}")


BLANK = {
    "create": ["account_name", "bot_name", "collection_name"],
    "insert": ["account_name", "document.title", "document.tags.0", "chunks.0.text"],
    "batch": ["documents.0.document.title", "documents.0.chunks.1.text"],
    "put": ["document.title", "chunks.1.text"],
    "patch": ["metadata_updates.title", "metadata_updates.tags.0"],
    "search": ["query_text", "account_name"],
}


@pytest.mark.parametrize("value", ["", " \t\n\u3000"], ids=["empty", "blank"])
@pytest.mark.parametrize(("call", "path"), [(call, path) for call, paths in BLANK.items() for path in paths])
async def test_empty_and_blank_text(place: Place, call: str, path: str, value: str) -> None:
    await place.refused(await place.send(call, put(path, value)), f"body.{path}")


INTEGERS = {
    "create": ["dimension"],
    "insert": ["chunks.0.chunk_index", "chunks.0.page_number"],
    "put": ["chunks.1.chunk_index"],
    "delete": ["doc_ids.0"],
    "search": ["limit"],
}


@pytest.mark.parametrize("value", [HUGE, -HUGE - 1, 10**400, True, "1", 1.5, -1, NAN, TOO_LARGE_FLOAT], ids=str)
@pytest.mark.parametrize(("call", "path"), [(call, path) for call, paths in INTEGERS.items() for path in paths])
async def test_bad_integer(place: Place, call: str, path: str, value: Any) -> None:
    await place.refused(await place.send(call, put(path, value)), f"body.{path}")


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


JSON_VALUES = {
    "huge": HUGE, "very_huge": 10**400, "low": -HUGE - 1, "nan": NAN, "infinite": INFINITE, "exponent": TOO_LARGE_FLOAT,
    "nul_key": {NUL: 1}, "lone_key": {LONE: 1}, "nul_deep": [{"a": [NUL]}], "deep": nested(40), "large": "x" * 70_000,
}  # fmt: skip


@pytest.mark.parametrize("name", JSON_VALUES)
@pytest.mark.parametrize(
    ("call", "path"),
    [
        ("insert", "document.metadata.key"),
        ("batch", "documents.0.document.metadata.key"),
        ("put", "document.metadata.key"),
        ("patch", "metadata_updates.other"),
        ("search", "filter"),
    ],
)
async def test_metadata_and_filters_that_jsonb_cannot_hold(place: Place, call: str, path: str, name: str) -> None:
    value = JSON_VALUES[name]
    if call == "search":
        value = {"type": "eq", "key": "metadata.key", "value": value}
    loc = path.removesuffix(".key").removesuffix(".other")
    await place.refused(await place.send(call, put(path, value)), f"body.{loc}")


@pytest.mark.parametrize("key", [NUL, LONE])
@pytest.mark.parametrize(("call", "path"), [("insert", "document.metadata"), ("patch", "metadata_updates")])
async def test_metadata_key_that_cannot_be_stored(place: Place, call: str, path: str, key: str) -> None:
    await place.refused(await place.send(call, put(path, {key: 1})), f"body.{path}")


@pytest.mark.parametrize("name", ["unknown", NUL, LONE], ids=["unknown", "nul", "lone"])
@pytest.mark.parametrize(
    ("call", "path"),
    [
        ("create", ""), ("insert", ""), ("insert", "document."), ("insert", "chunks.0."), ("batch", ""), ("put", ""),
        ("batch", "documents.0."), ("patch", ""), ("delete", ""), ("search", ""),
    ],
)  # fmt: skip
async def test_unknown_field(place: Place, call: str, path: str, name: str) -> None:
    await place.refused(await place.send(call, put(path + name, 1)), f"body.{path}".removesuffix("."))


@pytest.mark.parametrize(
    ("call", "path", "value"),
    [
        ("insert", "document.title", "x" * 513),
        ("put", "document.title", "x" * 513),
        ("patch", "metadata_updates.title", "x" * 513),
        ("patch", "metadata_updates.title", None),
        ("patch", "metadata_updates", {}),
        ("patch", "metadata_updates", []),
        ("insert", "document.chat_bot_id", "no-uuid"),
        ("insert", "document.chat_bot_id", 10**400),
        ("search", "chat_bot_id", "no-uuid"),
        ("create", "chat_bot_id", "no-uuid"),
        ("create", "dimension", 0),
        ("create", "dimension", 63),
        ("create", "collection_name", "1c"),
        ("create", "collection_name", "c-d"),
        ("create", "collection_name", "c\n"),
        ("create", "collection_name", "한국"),
        ("create", "collection_name", "c" * 256),
        ("insert", "document", None),
        ("insert", "document.tags", "x"),
        ("insert", "document.tags", ["x"] * 65),
        ("insert", "document.metadata", []),
        ("insert", "chunks", []),
        ("insert", "chunks", None),
        ("insert", "chunks", {}),
        ("put", "chunks", []),
        ("batch", "documents", []),
        ("batch", "documents.0.chunks", []),
        ("insert", "chunks.1.chunk_index", 0),
        ("insert", "chunks.1.chunk_index", -1),
        ("insert", "chunks.1.chunk_index", 65_536),
        ("insert", "chunks.0.page_number", 2**31),
        ("insert", "chunks.0.text", "x" * 8_193),
        ("delete", "doc_ids", []),
        ("delete", "doc_ids", [0]),
        ("delete", "doc_ids", [1] * 10_001),
        ("search", "limit", 0),
        ("search", "limit", 10_001),
        ("search", "query_text", "x" * 8_193),
        ("search", "mode", "sparse"),
        ("search", "dense_weight", 1.5),
        ("search", "dense_weight", NAN),
        ("search", "group_by_document", "yes"),
        ("search", "context_chunks", 21),
        ("search", "rerank", 1),
        ("search_batch", "query_texts", []),
        ("search_batch", "query_texts", "q"),
        ("search_batch", "query_texts", ["q"] * 65),
        ("search_batch", "query_texts.0", "x" * 8_193),
        ("search", "score_threshold", NAN),
        ("search", "score_threshold", INFINITE),
        ("search", "score_threshold", TOO_LARGE_FLOAT),
        ("search", "score_threshold", 10**400),
        ("search", "score_threshold", 1.1),
        ("search", "score_threshold", True),
        ("search", "score_threshold", "0.5"),
        ("search", "filter", {"type": "eq", "key": "metadata.a"}),
        ("search", "filter", {"type": "eq", "key": "chunk_count", "value": 1}),
        ("search", "filter", {"type": "eq", "key": f"metadata.{LONE}", "value": 1}),
        ("search", "filter", {"type": LONE, "key": "metadata.a", "value": 1}),
        ("search", "filter", {"type": "gt", "key": "doc_id", "value": HUGE}),
        ("search", "filter", {"type": "and", "filters": []}),
    ],
    ids=lambda value: ascii(value)[:40],
)  # fmt: skip
async def test_bad_value(place: Place, call: str, path: str, value: Any) -> None:
    loc = f"body.{path}"
    if path == "chunks.1.chunk_index" and value == 0:
        loc = "body.chunks"
    await place.refused(await place.send(call, put(path, value)), loc)


@pytest.mark.parametrize("call", ["create", "insert", "batch", "put", "patch", "delete", "search", "search_batch"])
async def test_empty_object_names_what_is_missing(place: Place, call: str) -> None:
    method, url, _ = place.calls[call]
    await place.refused(await place.raw(method, url, b"{}"), "body")


@pytest.mark.parametrize("call", ["insert", "batch"])
async def test_more_chunks_than_a_document_may_have(place: Place, call: str) -> None:
    chunks = [{"chunk_index": number % 65_536, "text": "x"} for number in range(65_537)]
    if call == "insert":
        await place.refused(await place.send(call, put("chunks", chunks)), "body.chunks")
    else:
        document = place.calls["insert"][2]
        most = {"document": document["document"], "chunks": chunks[:65_535]}
        two = {"document": document["document"], "chunks": document["chunks"]}
        await place.refused(await place.send(call, put("documents", [most, two])), "body")


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
async def test_body_that_is_no_object(place: Place, call: str, name: str) -> None:
    method, url, _ = place.calls[call]
    answer = await place.raw(method, url, BODIES[name])
    assert answer.status_code in (400, 422)
    await place.refused(answer, "body", answer.status_code)


@pytest.mark.parametrize("type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_body_of_another_type(place: Place, type: str) -> None:
    method, url, body = place.calls["insert"]
    answer = await place.raw(method, url, json.dumps(body).encode(), type)
    assert answer.status_code in (415, 422)
    await place.refused(answer, "body", answer.status_code)


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
async def test_bad_parameter(place: Place, method: str, url: str, loc: str) -> None:
    await place.refused(await place.bot.http.request(method, url), loc)


@pytest.mark.parametrize("what", ["bot", "account"])
@pytest.mark.parametrize("call", ["insert", "batch", "put", "patch", "delete", "search"])
async def test_unknown_bot_and_somebody_elses(place: Place, call: str, what: str) -> None:
    def change(body: Any) -> None:
        holders = [item["document"] for item in body.get("documents", [])] or [body.get("document", body)]
        for holder in holders:
            if what == "bot":
                holder["chat_bot_id"] = OTHER
        if what == "account":
            body["account_name"] = "somebody else"

    answer = await place.send(call, change)
    await place.refused(answer, None, 404)
    assert answer.json()["code"] == "bot_not_found"


@pytest.mark.parametrize("suffix", ["", "&account_name=else"])
@pytest.mark.parametrize(
    ("method", "url"),
    [("GET", "/data/document/{doc}?chat_bot_id={bot}"), ("DELETE", "/data/document/{doc}?chat_bot_id={bot}"),
     ("GET", "/data/documents?chat_bot_id={bot}"), ("GET", "/collection/{bot}?"), ("DELETE", "/collection/{bot}?")],
)  # fmt: skip
async def test_unknown_bot_and_somebody_elses_by_url(place: Place, method: str, url: str, suffix: str) -> None:
    bot = place.bot.bot_id if suffix else OTHER
    answer = await place.bot.http.request(method, url.format(doc=place.doc_id, bot=bot) + suffix)
    await place.refused(answer, None, 404)
    assert answer.json()["code"] == "bot_not_found"


@pytest.mark.parametrize("call", ["put", "patch", "get", "delete"])
async def test_unknown_document(place: Place, call: str) -> None:
    unknown = place.doc_id + 10**6
    if call in ("put", "patch"):
        method, url, body = place.calls[call]
        url = url.replace(str(place.doc_id), str(unknown))
        answer = await place.raw(method, url, json.dumps(body).encode())
    else:
        url = f"/data/document/{unknown}?chat_bot_id={place.bot.bot_id}"
        answer = await place.bot.http.request(call.upper(), url)
    await place.refused(answer, None, 404)
    assert answer.json()["code"] == "document_not_found"


async def test_unknown_address_and_method(place: Place) -> None:
    await place.refused(await place.bot.http.get("/nothing"), None, 404)
    await place.refused(await place.bot.http.get("/search/query"), None, 405)
