"""Which collections are in Milvus's memory: loads and releases them, and sends reads, which need them there."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

from pymilvus import AsyncMilvusClient, MilvusException

from app.core.stores.milvus.driver import is_not_loaded, loaded_collections, with_deadline
from app.schemas import milvus as schema
from app.utils.errors import CollectionReleased

T = TypeVar("T")

LOAD_SECONDS: Final = 120.0
"""Timeout of a load, which takes 3 s on an idle server and 30 s on a busy one with hundreds of collections."""
AGAIN_SECONDS: Final = 0.1


class MilvusMemory:
    def __init__(self, client: AsyncMilvusClient, timeout: float) -> None:
        self._client = client
        self._timeout = timeout

    async def load(self, collection: str) -> None:
        async def load() -> None:
            while True:
                try:
                    await self._client.load_collection(collection, timeout=LOAD_SECONDS)
                    await self._catch_up(collection)
                    return
                except MilvusException as error:  # Released by another client during the load.
                    if not is_not_loaded(error):
                        raise
                await asyncio.sleep(AGAIN_SECONDS)

        await with_deadline(LOAD_SECONDS, load)

    async def _catch_up(self, collection: str) -> None:
        """Returns when the collection has all that was written until now.

        Milvus calls it loaded before it has read its log, from the last flush on, and blocks reads until then: 17 s
        were seen on a busy machine.
        """
        await self._client.query(
            collection, filter="", output_fields=["count(*)"], consistency_level="Strong", timeout=LOAD_SECONDS
        )

    async def release(self, collection: str) -> None:
        release = partial(self._client.release_collection, collection, timeout=self._timeout)
        await with_deadline(self._timeout, release)

    async def loaded(self) -> set[str]:
        found = await with_deadline(self._timeout, partial(loaded_collections, self._client, self._timeout))
        return found - {schema.MARKER}

    async def read(self, request: Callable[[], Awaitable[T]]) -> T:
        """Sends a request that needs its collection in memory. Raises CollectionReleased if it is not."""

        async def attempt() -> T:
            try:
                return await request()
            except MilvusException as error:
                if is_not_loaded(error):
                    raise CollectionReleased from error
                raise

        return await with_deadline(self._timeout, attempt)

    async def read_loading(self, collection: str, request: Callable[[], Awaitable[T]]) -> T:
        """As ``read``, and loads the collection first if it is not in memory: after a restart of Milvus."""

        async def attempt() -> T:
            try:
                return await self.read(request)
            except CollectionReleased:
                await self._client.load_collection(collection, timeout=self._timeout)
                return await self.read(request)

        return await with_deadline(self._timeout, attempt)
