"""What operators see, and what they must never see."""

import json
import logging
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.config import Settings
from app.core.services import Services
from app.core.stores.postgres.database import Database
from app.utils import logging as our_logging
from app.utils import metrics
from app.utils.lifecycle import process
from tests.api.keys import make_key
from tests.conftest import BotClient, in_process
from tests.doubles.hash_embedder import HashEmbedder
from tests.doubles.memory_index import MemoryIndex

OPS = Path(__file__).resolve().parents[2] / "docs" / "ops"
SECRET = "비밀"


class Quoting(Exception):
    """As a driver's: its message quotes what it was given."""


class BrokenIndex(MemoryIndex):
    broken = False

    async def upsert(self, collection, chunk_ids, doc_ids, embeddings, texts=None, **options) -> int:  # type: ignore[no-untyped-def]
        if self.broken:
            raise Quoting(f"cannot store {texts} {embeddings.tolist()}")
        return await super().upsert(collection, chunk_ids, doc_ids, embeddings, texts, **options)

    async def search_dense(self, collection, queries, k, **options):  # type: ignore[no-untyped-def]
        if self.broken:
            raise Quoting(f"cannot search {queries.tolist()}")
        return await super().search_dense(collection, queries, k, **options)


class BrokenEmbedder(HashEmbedder):
    broken = False

    async def embed_queries(self, texts):  # type: ignore[no-untyped-def]
        if self.broken:
            raise Quoting(f"cannot embed {texts}")
        return await super().embed_queries(texts)


@pytest.fixture
def index() -> BrokenIndex:
    return BrokenIndex()


@pytest.fixture
def embedder() -> BrokenEmbedder:
    return BrokenEmbedder()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"log_level": "DEBUG", "log_format": "json"})


@pytest.fixture
async def client(services: Services, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with in_process(services, settings) as opened:
        yield opened


@pytest.fixture
def lines(client: httpx.AsyncClient) -> Iterator[list[str]]:
    """What the package logs, formatted as it would be written."""
    (handler,) = logging.getLogger("app").handlers
    found: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(handler.format(record))

    kept = Kept()
    logging.getLogger("app").addHandler(kept)
    yield found
    logging.getLogger("app").removeHandler(kept)


async def samples(client: httpx.AsyncClient) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


@pytest.mark.parametrize("broken", ["index", "embedder"])
async def test_failures_are_logged_without_what_was_sent(
    bot: BotClient, index: BrokenIndex, embedder: BrokenEmbedder, lines: list[str], broken: str
) -> None:
    doc_id = await bot.insert(SECRET, title=SECRET, author=SECRET)
    index.broken, embedder.broken = broken == "index", broken == "embedder"
    headers = {"authorization": f"Bearer {SECRET}".encode(), "idempotency-key": "key-of-mine"}
    asked = {"chat_bot_id": str(bot.bot_id), "query_text": SECRET, "mode": "dense"}
    search = await bot.http.post("/search/query", json=asked, headers=headers)
    assert search.status_code == 500
    body = bot.body(SECRET, title=SECRET, metadata={SECRET: SECRET})
    insert = await bot.http.post("/data/insert", json=body, headers=headers)
    assert insert.status_code == (500 if broken == "index" else 201)
    await bot.http.post("/data/insert", json=bot.body(SECRET) | {SECRET: 1})
    await bot.http.get(f"/{SECRET}?{SECRET}={SECRET}")
    await bot.http.get(f"/data/document/{SECRET}")
    await bot.http.get(f"/data/document/{doc_id}", params={"chat_bot_id": str(bot.bot_id), "account_name": SECRET})
    log = "\n".join(lines)
    assert f"{Quoting.__module__}.Quoting" in log, "the failure itself is logged"
    assert search.json()["request_id"] in log
    for word in (SECRET, json.dumps(SECRET)[1:-1], "key-of-mine", "%EB%B9%84"):
        assert word not in log
    assert not re.search(r"0\.\d{6,}, ", log), "a vector"
    assert SECRET not in search.text + insert.text


async def test_each_line_and_answer_has_the_requests_id(client: httpx.AsyncClient, lines: list[str]) -> None:
    answer = await client.get("/collection/list", headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    line = json.loads(lines[-1])
    assert (line["request_id"], line["route"], line["status"]) == ("mine-1", "/collection/list", 200)
    for unfit in ("", "a b", "x" * 65, "new\\nline", "<script>"):
        given = (await client.get("/collection/list", headers={"x-request-id": unfit})).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", given)


def test_lines_for_people_have_it_too() -> None:
    our_logging.configure("INFO")
    (handler,) = logging.getLogger("app").handlers
    record = logging.LogRecord("app.x", logging.INFO, "", 1, "words", (), None)
    token = our_logging.request_id.set("abc")
    assert handler.format(record).endswith("INFO    [abc] app.x: words")
    our_logging.request_id.reset(token)


async def test_requests_are_counted_by_route_and_by_nobodys_name(bot: BotClient) -> None:
    before = await samples(bot.http)
    doc_id = await bot.insert("text")
    await bot.search("text", mode="dense")
    await bot.http.get(f"/data/document/{doc_id}", params={"chat_bot_id": str(bot.bot_id)})
    await bot.http.get(f"/nothing/{bot.bot_id}")
    after = await samples(bot.http)

    def grown(name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return after.get(key, 0.0) - before.get(key, 0.0)

    requests = "chat_memory_requests_total"
    assert grown(requests, method="POST", route="/data/insert", status="201") == 1
    assert grown(requests, method="GET", route="/data/document/{doc_id}", status="200") == 1
    assert grown(requests, method="GET", route="unmatched", status="404") == 1
    for stage in ("embedding", "milvus", "dense"):
        assert grown("chat_memory_stage_seconds_count", stage=stage) >= 1, stage
    assert after[("chat_memory_requests_in_flight", ())] == 1
    assert after[("chat_memory_postgres_connections_max", ())] == 16
    labels = {label for _, pairs in after for label, _ in pairs}
    assert labels <= {"method", "route", "status", "stage", "lane", "kind", "outcome", "state", "le"}
    assert str(bot.bot_id) not in (await bot.http.get("/metrics")).text


async def test_the_backlog_is_shown(bot: BotClient) -> None:
    doc_id = await bot.insert("text")
    writes = "chat_memory_sagas_in_flight"
    assert (await samples(bot.http))[(writes, ())] == 0
    await bot.http.delete(f"/data/document/{doc_id}", params={"chat_bot_id": str(bot.bot_id)})
    found = await samples(bot.http)
    assert ("chat_memory_vector_gc_backlog", ()) in found


async def test_other_machines_do_not_see_metrics(services: Services, settings: Settings, db: Database) -> None:
    await make_key(db, "operator", ["admin"])
    async with in_process(services, settings.model_copy(update={"auth_disabled": False})) as client:
        assert (await client.get("/metrics")).status_code == 200, "httpx calls from 127.0.0.1"
        for address, status in (("::1", 200), ("10.0.0.7", 401)):
            transport = client._transport
            transport.client = (address, 1)  # type: ignore[attr-defined]
            assert (await client.get("/metrics")).status_code == status


async def test_a_peer_that_is_unknown_does_not_see_metrics(
    services: Services, settings: Settings, db: Database
) -> None:
    """As at a Unix socket, where a proxy may stand for anybody."""
    await make_key(db, "chatty")
    async with in_process(services, settings.model_copy(update={"auth_disabled": False})) as client:
        nowhere = _without_peer(client._transport.app)  # type: ignore[attr-defined]
        async with httpx.AsyncClient(transport=httpx.ASGITransport(nowhere), base_url="http://server") as unknown:
            assert (await unknown.get("/metrics")).status_code == 401


def _without_peer(app: Any) -> Any:
    async def called(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "client": None}, receive, send)

    return called


async def test_a_process_that_stops_is_not_ready_and_ends_connections(client: httpx.AsyncClient) -> None:
    process.draining = True
    try:
        answer = await client.get("/health/ready")
        assert (answer.status_code, answer.json()["status"]) == (503, "stopping")
        assert answer.headers["connection"] == "close"
        assert (await client.get("/health/live")).status_code == 200
    finally:
        process.draining = False
    assert (await client.get("/health/ready")).status_code == 200


def _names(text: str) -> set[str]:
    return set(re.findall(r"\bchat_memory_[a-z_]+", text))


@pytest.mark.parametrize("name", ["grafana-dashboard.json", "alerts.yml"])
async def test_what_operators_load_names_metrics_that_exist(client: httpx.AsyncClient, name: str) -> None:
    text = (OPS / name).read_text(encoding="utf-8")
    known = {sample.name for family in metrics.registry.collect() for sample in family.samples}
    known |= _suffixed()
    assert _names(text), name
    assert _names(text) - known == set()


async def test_the_page_of_metrics_names_each_of_them_and_no_other(client: httpx.AsyncClient) -> None:
    page = (OPS / "README.md").read_text(encoding="utf-8")
    families = {family.name + ("_total" if family.type == "counter" else "") for family in metrics.registry.collect()}
    assert _names(page) - _suffixed() - families == set()
    assert families - _names(page) == set()


def _suffixed() -> set[str]:
    """Series of metrics with labels, which exist only once they have been counted."""
    suffixes = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
    return {family.name + suffix for family in metrics.registry.collect() for suffix in suffixes.get(family.type, [])}
