"""Two accounts with two keys: every endpoint, with every id of the other, answers as if these ids did not exist.

Also with one of the two walls taken down.
"""

import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import httpx
import numpy as np
import pytest

from app.config import Settings
from app.core.connect import Stores
from app.core.embedding.caching_embedder import CachingEmbedder
from app.core.services import Services, build_services
from app.core.stores.postgres.database import Database
from app.core.stores.postgres.documents import DocumentStore
from app.core.stores.postgres.writes import WriteStore
from app.main import create_app
from app.schemas.filter_tree import Column, Condition
from app.schemas.queries import SQL
from app.utils import metrics
from tests.api.contents import contents
from tests.api.keys import bearer, make_key
from tests.conftest import BotClient, in_process, register
from tests.doubles.counting_embedder import CountingEmbedder
from tests.doubles.memory_index import MemoryIndex

DOCUMENT = create_app().openapi()
OPERATIONS = {
    operation["operationId"]: (method, path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
NAMES_NOBODY = {"health", "ready", "live", "metrics", "create_embeddings", "rerank", "list_collections",
                "list_models", "get_model", "list_keys", "create_key", "revoke_key", "get_own_key",
                "set_quota", "get_usage", "list_errors"}  # fmt: skip
"""Calls without an id; what they may show is tested for each."""
CREATES = {"create_collection"}
OF_SESSION = {"sync_documents", "finish_sync", "cancel_sync"}
"""tests/api/test_sync.py has another account's session."""
OF_JOB = {"get_job", "cancel_job"}
"""tests/api/test_jobs.py has another account's job."""
OF_DOCUMENT = {name for name, (_, path, _) in OPERATIONS.items() if "{doc_id}" in path} | {"delete_documents"}
EXTERNAL_ID = "guide/1"
"""Both tenants' documents have it."""
STREAM = "load-2026-12-01"
"""Both tenants have it."""
ACCOUNT = "($2::text IS NULL OR account_name = $2)"
ABSENT_DOC = 2**62


class Tenant(NamedTuple):
    account: str
    http: httpx.AsyncClient
    bot: BotClient
    doc_id: int


@pytest.fixture
async def tenants(services: Services, settings: Settings, db: Database) -> AsyncIterator[tuple[Tenant, Tenant]]:
    keys = {account: await make_key(db, account) for account in ("mine", "theirs")}
    async with in_process(services, settings.model_copy(update={"auth_disabled": False})) as client:
        found = []
        for account, key in keys.items():
            http = httpx.AsyncClient(transport=client._transport, base_url="http://server", headers=bearer(key))
            bot = await register(http, bot_name=account)
            doc_id = await bot.insert(
                f"text of {account}",
                f"more of {account}",
                tags=[account],
                metadata={"whose": account},
                external_id=EXTERNAL_ID,
            )
            params = {"chat_bot_id": str(bot.bot_id), "stream_key": STREAM, "part": 2}
            assert (await http.post("/data/insert/stream", params=params, content=b"{}")).status_code == 200
            found.append(Tenant(account, http, bot, doc_id))
        yield found[0], found[1]


@pytest.fixture(params=["both walls", "no account in SQL", "no bot in SQL"])
def walls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which of the predicates the statements have. Those that read or change documents are cut as a whole."""
    if request.param == "no account in SQL":
        take_down_accounts(monkeypatch)
    elif request.param == "no bot in SQL":
        take_down_bots(monkeypatch)
    return str(request.param)


def take_down_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = {name: sql.replace(ACCOUNT, "($2::text IS NULL OR true)") for name, sql in SQL.items() if ACCOUNT in sql}
    assert cut.keys() == {"get_bot", "get_bots", "lock_bot_for_deletion", "update_bot", "find_bot"}
    cut["list_bots"] = SQL["list_bots"].replace("account_name = $1)", "true)")
    for name, sql in cut.items():
        assert sql != SQL[name]
        monkeypatch.setitem(SQL, name, sql)


def take_down_bots(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "current_generations",
        "get_document",
        "get_document_chunks",
        "list_documents",
        "documents_with_chunks",
        "query_documents",
        "facets",
        "facets_of_tags",
        "current_chunks",
        "neighbouring_chunks",
        "matching_documents",
        "lock_documents",
        "delete_documents",
        "patch_document",
        "patch_documents",
    ):
        cut = re.sub(r"\b(\w+\.)?bot_id = \$1", "$1::uuid IS NOT NULL", SQL[name])
        assert cut != SQL[name], name
        monkeypatch.setitem(SQL, name, cut)


def request_of(name: str, bot_id: UUID, doc_id: int, account: str | None = None) -> dict[str, Any]:
    """The call's own example, with these ids wherever it has an id, and no other external_id than in the query."""
    method, path, operation = OPERATIONS[name]
    request: dict[str, Any] = {"method": method.upper(), "params": {}}
    request["url"] = (
        path.replace("{chat_bot_id}", str(bot_id)).replace("{doc_id}", str(doc_id)).replace("{chunk_index}", "1")
    )
    request["url"] = request["url"].replace("{stream_key}", STREAM)
    query = [parameter for parameter in operation.get("parameters", ()) if parameter["in"] == "query"]
    names = {parameter["name"] for parameter in query}
    request["params"] |= {one["name"]: one["example"] for one in query if one["required"]}
    if "chat_bot_id" in names:
        request["params"]["chat_bot_id"] = str(bot_id)
    if "external_id" in names:
        request["params"]["external_id"] = EXTERNAL_ID
    if account and "account_name" in names:
        request["params"]["account_name"] = account
    if name == "load_part":
        line = operation["requestBody"]["content"]["application/x-ndjson"]["example"]
        request["content"] = json.dumps(with_ids(json.loads(line), bot_id, doc_id))
    elif name == "import_collection":
        request["content"] = operation["requestBody"]["content"]["application/x-ndjson"]["example"]
    elif "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        example = DOCUMENT["components"]["schemas"][schema]["examples"][0]
        request["json"] = with_ids(example, bot_id, doc_id) | ({"account_name": account} if account else {})
        request["json"].pop("mode", None)
        request["json"].pop("rerank", None)
    return request


def with_ids(value: Any, bot_id: UUID, doc_id: int) -> Any:
    if isinstance(value, list):
        return [with_ids(item, bot_id, doc_id) for item in value]
    if not isinstance(value, dict):
        return value
    replaced = {"chat_bot_id": str(bot_id), "doc_ids": [doc_id]}
    kept = {key: item for key, item in value.items() if key != "external_id"}
    return {key: replaced.get(key, with_ids(item, bot_id, doc_id)) for key, item in kept.items()}


def comparable(answer: httpx.Response, bot_id: UUID, doc_id: int) -> tuple[int, str, dict[str, str]]:
    """Status, body and headers, without what differs between two answers to the same request."""
    text = json.dumps({key: value for key, value in answer.json().items() if not key.endswith(("_ms", "request_id"))})
    headers = {key: value for key, value in answer.headers.items() if key not in ("x-request-id", "content-length")}
    return answer.status_code, re.sub(rf"\b{doc_id}\b", "DOC", text.replace(str(bot_id), "BOT")), headers


@pytest.mark.parametrize("name", sorted(OPERATIONS.keys() - NAMES_NOBODY - CREATES - OF_SESSION - OF_JOB))
async def test_the_others_ids_are_as_ids_that_do_not_exist(
    tenants: tuple[Tenant, Tenant], db: Database, index: MemoryIndex, walls: str, name: str
) -> None:
    me, other = tenants
    before = await contents(db, index)
    for account in (None, me.account):
        absent = uuid4()
        found = await me.http.request(**request_of(name, other.bot.bot_id, other.doc_id, account))
        missing = await me.http.request(**request_of(name, absent, other.doc_id, account))
        assert found.status_code == 404, found.text
        assert comparable(found, other.bot.bot_id, other.doc_id) == comparable(missing, absent, other.doc_id)
    as_other = await me.http.request(**request_of(name, other.bot.bot_id, other.doc_id, other.account))
    assert comparable(as_other, other.bot.bot_id, other.doc_id) == comparable(missing, absent, other.doc_id)
    if name in OF_DOCUMENT:
        found = await me.http.request(**request_of(name, me.bot.bot_id, other.doc_id))
        missing = await me.http.request(**request_of(name, me.bot.bot_id, ABSENT_DOC))
        assert comparable(found, me.bot.bot_id, other.doc_id) == comparable(missing, me.bot.bot_id, ABSENT_DOC)
        assert found.status_code == (200 if name == "delete_documents" else 404)
        if name == "delete_documents":
            assert found.json()["not_found"] == [other.doc_id]
    assert await contents(db, index) == before
    mine = await me.http.request(**request_of(name, me.bot.bot_id, me.doc_id))
    assert mine.status_code in (200, 201, 202), "the same call on one's own"


async def test_an_existing_bot_is_a_conflict_that_does_not_say_whose_it_is(tenants: tuple[Tenant, Tenant]) -> None:
    me, other = tenants
    body = {"bot_name": "theirs", "collection_name": f"bot_{other.bot.bot_id.hex}"}
    same_id = await me.http.post("/collection/create", json={**body, "chat_bot_id": str(other.bot.bot_id)})
    mine = await me.http.post("/collection/create", json={**body, "chat_bot_id": str(me.bot.bot_id)})
    assert same_id.status_code == 409
    assert comparable(same_id, other.bot.bot_id, 0) == comparable(mine, me.bot.bot_id, 0)
    same_name = await me.http.post("/collection/create", json={**body, "chat_bot_id": str(uuid4())})
    assert (same_name.status_code, same_name.json()["code"]) == (409, "collection_name_taken")
    for answer in (same_id, same_name):
        assert other.account not in answer.text
    as_other = {**body, "chat_bot_id": str(uuid4()), "collection_name": "fresh", "account_name": other.account}
    answer = await me.http.post("/collection/create", json=as_other)
    assert (answer.status_code, answer.json()["code"]) == (404, "bot_not_found")


async def test_a_list_shows_ones_own_bots(tenants: tuple[Tenant, Tenant], walls: str) -> None:
    for tenant in tenants:
        answer = await tenant.http.get("/collection/list")
        assert [bot["chat_bot_id"] for bot in answer.json()["bots"]] == [str(tenant.bot.bot_id)]
        assert answer.json()["bots"][0]["account_name"] == tenant.account
    me, other = tenants
    answer = await me.http.get("/collection/list", params={"account_name": other.account})
    assert (answer.status_code, answer.json()["code"]) == (404, "bot_not_found")


async def test_a_batch_to_ones_own_and_the_others_bot(tenants: tuple[Tenant, Tenant], walls: str) -> None:
    me, other = tenants
    nobody = BotClient(me.http, uuid4())
    documents = [me.bot.body("a"), other.bot.body("b"), nobody.body("c")]
    answer = (await me.http.post("/data/insert/batch", json={"documents": documents})).json()
    assert [result["success"] for result in answer["results"]] == [True, False, False]
    theirs, unknown = (result["error"] for result in answer["results"][1:])
    assert theirs["code"] == "bot_not_found"
    assert [place["loc"] for place in theirs["errors"]] == ["body.documents.1"]
    assert [place["loc"] for place in unknown["errors"]] == ["body.documents.2"]
    assert theirs | {"errors": [place["msg"] for place in theirs["errors"]]} == unknown | {
        "errors": [place["msg"] for place in unknown["errors"]]
    }


async def test_nothing_of_the_other_is_read_or_found(
    tenants: tuple[Tenant, Tenant], db: Database, index: MemoryIndex, services: Services, walls: str
) -> None:
    me, other = tenants
    theirs, _ = [key async for page in index.scan(f"bot_{other.bot.bot_id.hex}") for key in page]
    # As if Milvus had mixed two collections up.
    vectors = await services.embed.vectors("hash", ["text of theirs"], None, queries=False)
    keys, doc_ids = np.array([theirs]), np.array([other.doc_id])
    await index.upsert(f"bot_{me.bot.bot_id.hex}", keys, doc_ids, vectors.vectors, ["text of theirs"])
    for options in ({}, {"filter": {"type": "exists", "key": "title", "value": True}}, {"context_chunks": 2}):
        found = await me.bot.search("text of theirs", **options)
        assert {one["chunk_text"] for one in found} == {"text of mine", "more of mine"}
    listed = (await me.http.get("/data/documents", params={"chat_bot_id": str(me.bot.bot_id)})).json()
    queried = (await me.http.post("/data/documents/query", json={"chat_bot_id": str(me.bot.bot_id)})).json()
    for found_documents in (listed["documents"], queried["documents"]):
        assert [document["doc_id"] for document in found_documents] == [me.doc_id]

    for key, value in (("metadata.whose", "mine"), ("tags", me.account)):
        counted = await me.http.post("/data/documents/facets", json={"chat_bot_id": str(me.bot.bot_id), "key": key})
        assert counted.json()["values"] == [{"value": value, "documents": 1}]
        assert (counted.json()["other_values"], counted.json()["other_documents"]) == (0, 0)

    store, bot_id = DocumentStore(db, timedelta(0)), me.bot.bot_id
    assert await store.current_chunks(bot_id, [theirs], [theirs], None) == {}
    assert await store.neighbours(bot_id, [theirs + 1], 5) == {}
    assert await store.matching_documents(bot_id, Condition("exists", Column("title"), True), 0, 10) == [me.doc_id]
    on_no_page = Condition("is_empty", Column("page_number"), True)
    assert theirs not in await store.matching_chunks(bot_id, on_no_page, 0, 10)
    assert await WriteStore(db, timedelta(0)).generation_of(bot_id, other.doc_id) is None


async def test_the_second_wall_counts_what_it_keeps_back(
    tenants: tuple[Tenant, Tenant], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    me, other = tenants
    take_down_accounts(monkeypatch)
    before = metrics.FOREIGN_ROWS._value.get()
    assert (await me.http.get(f"/collection/{other.bot.bot_id}")).status_code == 404
    assert metrics.FOREIGN_ROWS._value.get() == before + 1
    assert [
        record.levelname for record in caplog.records if record.name == "app.core.stores.postgres.tenant_guard"
    ] == ["ERROR"]


async def test_an_idempotency_key_is_its_accounts(tenants: tuple[Tenant, Tenant]) -> None:
    me, other = tenants
    headers = {"Idempotency-Key": "same"}
    body = other.bot.body("text")
    assert (await other.http.post("/data/insert", json=body, headers=headers)).status_code == 201
    answer = await me.http.post("/data/insert", json=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (404, "bot_not_found")
    answer = await me.http.post("/data/insert", json=body | {"account_name": "theirs"}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (404, "bot_not_found")
    again = await other.http.post("/data/insert", json=body, headers=headers)
    assert again.headers["idempotency-replayed"] == "true"


SENT_ONCE = "text that only one of them has sent"


async def test_a_vector_is_kept_for_its_account(db: Database, index: MemoryIndex, settings: Settings) -> None:
    """Of another's text it cannot be told from how long an answer takes that somebody has sent it."""
    counting = CountingEmbedder()
    keyed = settings.model_copy(update={"auth_disabled": False})
    keys = [bearer(await make_key(db, account)) for account in ("mine", "theirs")]
    async with AsyncExitStack() as stack:
        stores = Stores(db, index, timedelta(0))
        services = await stack.enter_async_context(build_services(keyed, stores, CachingEmbedder(counting, 1 << 20)))
        client = await stack.enter_async_context(in_process(services, keyed))

        async def embedded(number: int, **headers: str) -> bool:
            body = {"model": "hash", "input": SENT_ONCE}
            path = "/v1/embeddings"
            counting.embedded.clear()
            answer = await client.post(path, json=body, headers=keys[number] | headers)
            assert answer.status_code == 200, answer.text
            return counting.embedded == [SENT_ONCE]

        async def searched(number: int, bot_id: UUID) -> bool:
            body = {"chat_bot_id": str(bot_id), "query_text": SENT_ONCE, "mode": "dense"}
            counting.embedded.clear()
            assert (await client.post("/search/query", json=body, headers=keys[number])).status_code == 200
            return counting.embedded == [SENT_ONCE]

        theirs = httpx.AsyncClient(transport=client._transport, base_url="http://server", headers=keys[1])
        mine = httpx.AsyncClient(transport=client._transport, base_url="http://server", headers=keys[0])
        bots = [(await register(http, bot_name=name)).bot_id for http, name in ((mine, "mine"), (theirs, "theirs"))]
        await BotClient(theirs, bots[1]).insert(SENT_ONCE)
        assert not await embedded(1), "what was stored is kept for its own account"
        assert await embedded(0)
        assert not await embedded(0)
        assert await searched(1, bots[1])
        assert not await searched(1, bots[1])
        assert await searched(0, bots[0])


DIFY = "/integrations/dify/retrieval"
STORES = "/v1/vector_stores"
STORE = f"{STORES}/vs_HEX"
FILE = f"{STORE}/files/file-DOC"
INTEGRATIONS: dict[str, tuple[str, str, Any]] = {
    "dify by id": ("POST", DIFY, {"knowledge_id": "BOT", "query": "text"}),
    "dify by name": ("POST", DIFY, {"knowledge_id": "bot_HEX", "query": "text"}),
    "get store": ("GET", STORE, None),
    "get store by its UUID": ("GET", f"{STORES}/BOT", None),
    "modify store": ("POST", STORE, {"name": "other"}),
    "modify store in a way that is not served": ("POST", STORE, {"metadata": {}}),
    "delete store": ("DELETE", STORE, None),
    "search store": ("POST", f"{STORE}/search", {"query": "text"}),
    "list files": ("GET", f"{STORE}/files", None),
    "list files up to one": ("GET", f"{STORE}/files?order=asc&before=file-DOC", None),
    "get file": ("GET", FILE, None),
    "get content": ("GET", f"{FILE}/content", None),
    "modify file": ("POST", FILE, {"attributes": {"a": 1}}),
    "modify no attributes": ("POST", FILE, {"attributes": None}),
    "delete file": ("DELETE", FILE, None),
}
"""Calls of other APIs: method, path, body. BOT, HEX and DOC stand for the bot's id in two forms and the doc_id."""


def integration_request(name: str, bot_id: UUID, doc_id: int) -> dict[str, Any]:
    method, path, body = INTEGRATIONS[name]

    def filled(text: str) -> str:
        return text.replace("BOT", str(bot_id)).replace("HEX", bot_id.hex).replace("DOC", str(doc_id))

    content = None if body is None else filled(json.dumps(body))
    return {"method": method, "url": filled(path), "content": content, "headers": {"Content-Type": "application/json"}}


@pytest.mark.parametrize("name", INTEGRATIONS)
async def test_the_others_ids_over_other_apis_are_as_ids_that_do_not_exist(
    tenants: tuple[Tenant, Tenant], db: Database, index: MemoryIndex, walls: str, name: str
) -> None:
    me, other = tenants
    before = await contents(db, index)
    absent = uuid4()
    found = await me.http.request(**integration_request(name, other.bot.bot_id, other.doc_id))
    missing = await me.http.request(**integration_request(name, absent, other.doc_id))
    assert found.status_code == 404, found.text
    assert "theirs" not in found.text
    assert comparable(found, other.bot.bot_id, other.doc_id) == comparable(missing, absent, other.doc_id)
    if "/file-DOC" in INTEGRATIONS[name][1]:
        found = await me.http.request(**integration_request(name, me.bot.bot_id, other.doc_id))
        missing = await me.http.request(**integration_request(name, me.bot.bot_id, ABSENT_DOC))
        assert found.status_code == 404, found.text
        assert comparable(found, me.bot.bot_id, other.doc_id) == comparable(missing, me.bot.bot_id, ABSENT_DOC)
    assert await contents(db, index) == before
    mine = await me.http.request(**integration_request(name, me.bot.bot_id, me.doc_id))
    assert mine.status_code in (200, 201), mine.text


async def test_a_cursor_of_another_account_is_unknown(tenants: tuple[Tenant, Tenant], walls: str) -> None:
    me, other = tenants
    for cursor in ("after", "before"):
        found = await me.http.get(STORES, params={cursor: f"vs_{other.bot.bot_id.hex}"})
        missing = await me.http.get(STORES, params={cursor: f"vs_{uuid4().hex}"})
        assert found.status_code == 404
        assert found.json() | {"request_id": ""} == missing.json() | {"request_id": ""}
    listed = (await me.http.get(STORES)).json()
    assert [store["chat_bot_id"] for store in listed["data"]] == [str(me.bot.bot_id)]


async def test_the_same_store_of_two_accounts_is_two(tenants: tuple[Tenant, Tenant]) -> None:
    for headers in ({}, {"Idempotency-Key": "same"}):
        mine, theirs = [(await one.http.post(STORES, json={"name": "same"}, headers=headers)).json() for one in tenants]
        assert mine["id"] != theirs["id"]
