"""/health with parts that are really broken."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import httpx
import pytest

from app.core.ports import UnverifiedCollection
from app.core.stores.address import PostgresAddress
from app.core.stores.postgres.database import Database
from app.utils.errors import StorageFull, VectorIndexUnavailable
from tests.doubles.hash_embedder import HashEmbedder
from tests.doubles.memory_index import MemoryIndex

RAISE_DISK_FULL = """
DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'disk_full', MESSAGE = 'could not extend file "base/1/2"'; END $$
"""


class BreakableIndex(MemoryIndex):
    """``state``: up, full (reads go on), away (says so at once) or hanging (never answers)."""

    state = "up"

    async def ping(self) -> None:
        if self.state == "away":
            raise VectorIndexUnavailable("Milvus did not answer.")
        if self.state == "hanging":
            await asyncio.Event().wait()

    async def unverified_collections(self, claim: float = 0) -> Sequence[UnverifiedCollection]:
        return [UnverifiedCollection("bot", 1, self.state != "full", True)]


class BreakableEmbedder(HashEmbedder):
    broken = False
    pings = 0

    async def ping(self) -> None:
        self.pings += 1
        if self.broken:
            raise RuntimeError("the model is gone")


@pytest.fixture(autouse=True)
def each_check_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.core.operations.health.PROBE_SECONDS", 0)
    monkeypatch.setattr("app.core.services.HEALTH_SECONDS", 1.0)


@pytest.fixture
def embedder() -> BreakableEmbedder:
    return BreakableEmbedder()


@pytest.fixture
def index() -> BreakableIndex:
    return BreakableIndex()


@pytest.fixture
async def db(address: PostgresAddress) -> AsyncIterator[Database]:
    """A pool that the test may close itself."""
    database = await Database.connect(address, min_size=1, max_size=2, timeout=2)
    yield database
    await database.close()


async def states(client: httpx.AsyncClient, status: int) -> dict[str, str]:
    answers = [await client.get("/health"), await client.get("/health/ready")]
    for answer in answers:
        assert answer.status_code == status
        assert ("retry-after" in answer.headers) == (status == 503)
        for dependency in answer.json()["dependencies"].values():
            assert isinstance(dependency["latency_ms"], float)
    found: list[dict[str, str]] = [
        {name: dependency["status"] for name, dependency in answer.json()["dependencies"].items()} for answer in answers
    ]
    assert found[0] == found[1]
    return found[0]


async def test_all_is_well(client: httpx.AsyncClient) -> None:
    assert await states(client, 200) == {"postgres": "up", "milvus": "up", "embedder": "up"}


@pytest.mark.parametrize("state", ["away", "hanging"])
async def test_index_away_or_hanging(client: httpx.AsyncClient, index: BreakableIndex, state: str) -> None:
    index.state = state
    async with asyncio.timeout(5):
        assert await states(client, 503) == {"postgres": "up", "milvus": "down", "embedder": "up"}
        assert (await client.get("/health/live")).status_code == 200
    index.state = "up"
    assert (await client.get("/health/ready")).status_code == 200


async def test_postgres_away(client: httpx.AsyncClient, db: Database) -> None:
    await db.close()
    assert await states(client, 503) == {"postgres": "down", "milvus": "up", "embedder": "up"}
    assert (await client.get("/health/live")).json() == {"status": "ok"}


async def test_embedder_away_says_nothing_of_why(client: httpx.AsyncClient, embedder: BreakableEmbedder) -> None:
    embedder.broken = True
    assert await states(client, 503) == {"postgres": "up", "milvus": "up", "embedder": "down"}
    assert "the model" not in (await client.get("/health")).text


async def test_full_stores_serve_reads(client: httpx.AsyncClient, index: BreakableIndex, db: Database) -> None:
    index.state = "full"
    assert await states(client, 200) == {"postgres": "up", "milvus": "full", "embedder": "up"}
    with pytest.raises(StorageFull) as refused:
        await db.execute(RAISE_DISK_FULL)
    assert "base/1" not in refused.value.detail
    assert await states(client, 200) == {"postgres": "full", "milvus": "full", "embedder": "up"}
    assert (await client.get("/health/ready")).json()["status"] == "degraded"
    index.state = "up"
    assert await states(client, 200) == {"postgres": "full", "milvus": "up", "embedder": "up"}


async def test_checks_share_a_probe(
    client: httpx.AsyncClient, embedder: BreakableEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.core.operations.health.PROBE_SECONDS", 3_600)
    paths = ["/health", "/health/ready"] * 20
    answers = await asyncio.gather(*(client.get(path) for path in paths))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert embedder.pings == 1
    embedder.broken = True
    assert (await client.get("/health/ready")).status_code == 200
    monkeypatch.setattr("app.core.operations.health.PROBE_SECONDS", 0)
    assert (await client.get("/health/ready")).status_code == 503
    assert embedder.pings == 2


async def test_a_caller_that_goes_away_takes_the_probe_from_no_other(
    client: httpx.AsyncClient, index: BreakableIndex, embedder: BreakableEmbedder
) -> None:
    index.state = "hanging"
    first = asyncio.create_task(client.get("/health/ready"))
    while not embedder.pings:
        await asyncio.sleep(0)
    second = asyncio.create_task(client.get("/health/ready"))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).status_code == 503
    assert embedder.pings == 1


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
async def test_head(client: httpx.AsyncClient, path: str, index: BreakableIndex) -> None:
    assert (await client.head(path)).status_code == 200
    index.state = "away"
    assert (await client.head(path)).status_code == (200 if path == "/health/live" else 503)
    refused = await client.post(path)
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
