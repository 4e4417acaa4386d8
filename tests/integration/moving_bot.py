"""A bot that moves to another model, its server, and traffic on it."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from uuid import uuid4

from app.config import Settings
from app.core.bots.bots import NewBot
from app.core.commands import model_migrator_over
from app.core.connect import Stores
from app.core.operations.model_migration import MigrationResult, ModelMigrator
from app.core.search.query import Query, Result
from app.core.services import Services, build_services
from app.core.write.idempotency import IdempotentRequest
from app.schemas.rows import NewChunk, NewDocument
from app.utils.stopwatch import Stopwatch
from tests.doubles.hash_embedder import HashEmbedder
from tests.integration.conftest import assert_at_rest, findings


class Old(HashEmbedder):
    model = "old"


class New(HashEmbedder):
    model = "new"

    def __init__(self, dimension: int = 48) -> None:
        super().__init__(dimension)


def document(*texts: str) -> NewDocument:
    return NewDocument("t", [NewChunk(number, text) for number, text in enumerate(texts)])


class Place:
    """A server that runs both models, and the command line's process, over the same stores."""

    def __init__(self, settings: Settings, stores: Stores, services: Services) -> None:
        self.settings, self.stores, self.services = settings, stores, services
        self.bot_id = uuid4()
        self.name = f"c_{self.bot_id.hex}"

    @asynccontextmanager
    async def migrator(self, embedder: HashEmbedder | None = None) -> AsyncIterator[ModelMigrator]:
        async with model_migrator_over(self.settings, self.stores, embedder or New()) as migrator:
            yield migrator

    async def move(self, embedder: HashEmbedder | None = None) -> MigrationResult | None:
        async with self.migrator(embedder) as migrator:
            return await migrator.run(self.bot_id)

    async def insert(self, *texts: str, once: IdempotentRequest | None = None) -> int:
        outcomes = await self.services.ingest.insert(self.bot_id, None, document(*texts), Stopwatch(), once)
        return outcomes[0].doc_id or 0

    async def search(self, text: str, limit: int = 10) -> list[Result]:
        query = Query(self.bot_id, None, [text], limit, mode="dense")
        return (await self.services.search.query(query, Stopwatch())).results[0]

    async def texts(self, text: str, limit: int = 1) -> list[str]:
        return [result.chunk.text for result in await self.search(text, limit)]

    async def registry(self) -> tuple[str, int, str]:
        (row,) = await self.stores.db.fetch("SELECT * FROM bot_registry WHERE bot_id = $1", self.bot_id)
        assert (row["collection_name"], row["next_collection"]) == (self.name, None)
        return row["embedding_model"], row["dimension"], row["milvus_collection"] or self.name

    async def assert_moved(self) -> None:
        """To the new model, and at rest, the old collection gone."""
        model, dimension, collection = await self.registry()
        assert (model, dimension) == ("new", 48)
        assert collection != self.name
        await assert_at_rest(self.stores.db, self.stores.index)
        assert await findings(self.services.verifier) == []


@asynccontextmanager
async def opened(settings: Settings, stores: Stores) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        before = await stack.enter_async_context(build_services(settings, stores, Old()))
        services = await stack.enter_async_context(build_services(settings, stores, New(), previous=Old()))
        place = Place(settings, stores, services)
        await before.bots.create(NewBot(place.bot_id, "b", place.name, "chatty"))
        yield place


class Traffic:
    """Searchers and writers on one bot until it is left; what they wrote last is what must be found."""

    def __init__(self, place: Place, seed: int) -> None:
        self.place, self.random = place, random.Random(seed)
        self.held: dict[int, str] = {}
        self.deleted: set[str] = set()
        self.searches = self.writes = 0
        self.over = False
        self._busy: set[int] = set()
        self._numbers = iter(range(10**9))

    async def fill(self, count: int) -> None:
        for _ in range(count):
            await self._insert()

    async def __aenter__(self) -> "Traffic":
        writers = [asyncio.create_task(self._for_ever(self._write)) for _ in range(3)]
        self.tasks = [*writers, *(asyncio.create_task(self._for_ever(self._search)) for _ in range(3))]
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        # On until each did something after the move.
        writes, searches = self.writes + 5, self.searches + 5
        while not any(task.done() for task in self.tasks) and (self.writes < writes or self.searches < searches):
            await asyncio.sleep(0.01)
        self.over = True
        failed = [one for one in await asyncio.gather(*self.tasks, return_exceptions=True) if one]
        if failed and kind is None:
            raise failed[0]

    async def _for_ever(self, act) -> None:  # type: ignore[no-untyped-def]
        while not self.over:
            await act()
            await asyncio.sleep(0.002)

    def _text(self) -> str:
        number = next(self._numbers)
        return f"{number} " + " ".join(f"w{self.random.randrange(10**6)}" for _ in range(5))

    async def _insert(self) -> None:
        text = self._text()
        doc_id = await self.place.insert(text, text + " second")
        self.held[doc_id] = text
        self.writes += 1

    async def _write(self) -> None:
        free = [doc_id for doc_id in self.held if doc_id not in self._busy]
        kind = self.random.choice(["insert", "replace", "delete"])
        if kind == "insert" or len(free) < 5:
            await self._insert()
            return
        doc_id = self.random.choice(free)
        self._busy.add(doc_id)
        try:
            if kind == "replace":
                text = self._text()
                await self.place.services.ingest.replace(
                    self.place.bot_id, None, doc_id, document(text, text + " second"), Stopwatch()
                )
                self.held[doc_id] = text
            else:
                await self.place.services.documents.delete(self.place.bot_id, None, doc_id)
                self.deleted.add(self.held.pop(doc_id))
            self.writes += 1
        finally:
            self._busy.discard(doc_id)

    async def _search(self) -> None:
        doc_id = self.random.choice(list(self.held))
        if doc_id in self._busy:
            return
        text = self.held[doc_id]
        found = await self.place.texts(text)
        if self.held.get(doc_id) == text and doc_id not in self._busy:
            assert found == [text]
        self.searches += 1

    async def check(self) -> None:
        for text in self.held.values():
            assert await self.place.texts(text) == [text]
        for text in self.deleted:
            assert await self.place.texts(text) != [text]
        rows = await self.place.stores.db.fetch("SELECT doc_id FROM documents WHERE bot_id = $1", self.place.bot_id)
        assert {row["doc_id"] for row in rows} == self.held.keys()
