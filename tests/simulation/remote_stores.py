"""Stores and embedder as one simulated process reaches them: every method is a call through ``Process.call``."""

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np

from app.core.analyzers.analyzers import NEWEST
from app.core.embedding.port import Vectors
from app.core.ports import KeyRange, UnverifiedCollection
from app.schemas.operation_rows import GenerationBlock, Reservation
from app.schemas.rows import WriteRow
from tests.simulation.embedder import DIMENSION, embedding, raise_unusable

if TYPE_CHECKING:
    from tests.simulation.process import Process


def run_at_once(method: Callable[..., Coroutine[Any, Any, Any]], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The result of a method of an in-memory store, which never waits."""
    coro = method(*args, **kwargs)
    try:
        coro.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError(f"{method} waited")


class Database:
    """A store of PostgreSQL. Every method is one call and one transaction."""

    def __init__(self, process: "Process", store: Any) -> None:
        self._process = process
        self._store = store

    def __getattr__(self, name: str) -> Any:
        process, world = self._process, self._process.world
        method = self._all_pages if name == "all_document_pages" else getattr(self._store, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if name == "finish_deletion" and world.random.random() < 0.1:
                await process.call("database", "no lock", lambda: None)
                return False

            def effect() -> Any:
                try:
                    return run_at_once(method, args, kwargs)
                finally:
                    world.observe(name, args)

            return await process.call("database", name + _described(args), effect)

        self.__dict__[name] = call
        return call

    async def _all_pages(self, bot_id: UUID) -> list[list[int]]:
        return [page async for page in self._store.document_pages(bot_id)]

    async def document_pages(self, bot_id: UUID) -> AsyncIterator[list[int]]:
        for page in await self.all_document_pages(bot_id):
            yield page


class Marker:
    """The marker in Milvus. Implements MarkerPort."""

    def __init__(self, process: "Process") -> None:
        self._call = process.call
        self._milvus = process.world.milvus

    async def read(self) -> list[Reservation]:
        return list(await self._call("read", "reservations", self._milvus.reservations))

    async def add(self, reservations: Sequence[Reservation]) -> None:
        name = f"reserve {[(one.block.first, one.block.last) for one in reservations]}"
        await self._call("upsert", name, partial(self._milvus.reserve, reservations))

    async def bot_collections(self) -> list[str]:
        return sorted(await self._call("read", "collections", self._milvus.collections))

    async def greatest_key(self, collection: str, above: int) -> int:
        greatest = partial(self._milvus.greatest_key, collection, above)
        return int(await self._call("read", f"greatest key of {collection}", greatest))


class Index:
    """Milvus. Implements VectorIndex."""

    def __init__(self, process: "Process") -> None:
        self._call = process.call
        self._milvus = process.world.milvus
        self.marker = Marker(process)

    async def create(self, collection: str, dimension: int, *, load: bool = True) -> None:
        create = partial(self._milvus.create, collection, dimension, load=load)
        await self._call("create", f"create {collection}", create)

    async def load(self, collection: str) -> None:
        await self._call("load", f"load {collection}", partial(self._milvus.load, collection))

    async def release(self, collection: str) -> None:
        await self._call("release", f"release {collection}", partial(self._milvus.release, collection))

    async def loaded(self) -> set[str]:
        return set(await self._call("read", "loaded", lambda: set(self._milvus.loaded)))

    async def drop(self, collection: str, dimension: int | None = None) -> None:
        await self._call("drop", f"drop {collection}", partial(self._milvus.drop, collection, dimension))

    async def collections(self) -> list[str]:
        return list(await self._call("read", "collections", self._milvus.collections))

    @property
    def bm25(self) -> bool:
        return False

    async def supports_lexical(self, collection: str) -> bool:
        return False

    async def upsert(
        self,
        collection: str,
        chunk_ids: Any,
        doc_ids: Any,
        embeddings: Vectors,
        texts: Sequence[str] | None = None,
        *,
        analyzer_version: int = NEWEST,
        fresh: bool = False,
    ) -> int:
        def write(count: int) -> int:
            return self._milvus.upsert(collection, chunk_ids[:count], doc_ids[:count], embeddings[:count])

        every, half = len(chunk_ids), (len(chunk_ids) + 1) // 2
        name = f"upsert {collection} {sorted({key // 65536 for key in chunk_ids.tolist()})}"
        return int(await self._call("upsert", name, partial(write, every), partial(write, half)))

    async def delete(self, collection: str, chunk_ids: Sequence[int]) -> None:
        keys = list(chunk_ids)
        name = f"delete {collection} {sorted({key // 65536 for key in keys})}"
        delete = self._milvus.delete
        await self._call(
            "delete", name, partial(delete, collection, keys), partial(delete, collection, keys[: len(keys) // 2])
        )

    async def search_dense(
        self,
        collection: str,
        queries: Vectors,
        k: int,
        *,
        guarantee_timestamp: int = 0,
        doc_ids: Sequence[int] | None = None,
        chunk_ids: Sequence[int] | None = None,
        exclude_ranges: Sequence[KeyRange] = (),
    ) -> Any:
        (query,) = queries
        search = partial(
            self._milvus.search,
            collection,
            query,
            k,
            guarantee_timestamp=guarantee_timestamp,
            doc_ids=doc_ids,
            chunk_ids=chunk_ids,
            exclude_ranges=exclude_ranges,
        )
        return [await self._read(collection, f"search {collection} {guarantee_timestamp}", search)]

    async def embeddings(
        self, collection: str, chunk_ids: Sequence[int], *, guarantee_timestamp: int = 0
    ) -> dict[int, Vectors]:
        vectors = partial(self._milvus.vectors, collection, chunk_ids, guarantee_timestamp)
        return dict(await self._read(collection, f"vectors {collection} {list(chunk_ids)}", vectors))

    async def count(self, collection: str) -> int:
        return len(await self._read(collection, f"count {collection}", partial(self._milvus.rows, collection)))

    async def present(self, collection: str, ranges: Sequence[KeyRange]) -> set[int]:
        found = await self._read(collection, f"present {collection}", partial(self._milvus.present, collection, ranges))
        return set(found)

    async def scan(
        self, collection: str, *, page: int = 4096, key_range: KeyRange | None = None
    ) -> AsyncIterator[list[int]]:
        keys = await self._read(collection, f"scan {collection}", partial(self._milvus.keys, collection))
        keys = [key for key in keys if key_range is None or key_range[0] <= key < key_range[1]]
        for start in range(0, len(keys), page):
            yield keys[start : start + page]

    async def unverified_collections(self, claim: float = 0) -> Sequence[UnverifiedCollection]:
        return ()

    async def finish_verification(self, collection: UnverifiedCollection, *, complete: bool) -> None: ...

    async def ping(self) -> None:
        await self._call("read", "ping", lambda: None)

    async def close(self) -> None:
        return None

    async def _read(self, collection: str, name: str, effect: Callable[[], Any]) -> Any:
        return await self._call("read", name, partial(self._milvus.read, collection, effect))


class Embedder:
    model = "simulated"
    dimension = DIMENSION
    call_texts = 1

    def __init__(self, process: "Process") -> None:
        self._call = process.call

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        def embed() -> Vectors:
            return np.array([embedding(text) for text in texts], np.float32)

        vectors: Vectors = await self._call("embedder", f"embed {len(texts)}", embed)
        raise_unusable(vectors, texts)
        return vectors

    async def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return await self.embed_documents(texts)

    async def ping(self) -> None:
        return None

    async def close(self) -> None:
        return None


def _described(args: Sequence[Any]) -> str:
    shown = []
    for arg in args:
        if isinstance(arg, list) and arg and isinstance(arg[0], WriteRow):
            shown.append(f"docs {[write.doc_id for write in arg]} gens {[write.generation for write in arg]}")
        elif isinstance(arg, GenerationBlock):
            shown.append(f"{arg.first} to {arg.last}")
        elif isinstance(arg, list) and arg and isinstance(arg[0], GenerationBlock):
            shown.append(f"and {len(arg)} older")
        elif isinstance(arg, int | list | str) and not isinstance(arg, bool):
            shown.append(str(arg)[:60])
    return f"({', '.join(shown)})"
