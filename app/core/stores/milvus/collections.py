"""Creates, describes and pages through collections, with workarounds for Milvus and pymilvus.

Every method raises MilvusException; callers translate it with ``with_deadline``. Every method is idempotent, also when
several processes call it at once.
"""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any

from pymilvus import AsyncMilvusClient, CollectionSchema, MilvusClient, MilvusException

from app.core.stores.milvus.driver import is_missing
from app.schemas import milvus as schema


class MilvusCollections:
    def __init__(self, client: AsyncMilvusClient, blocking: MilvusClient, threads: Executor, timeout: float) -> None:
        self._client = client
        self._blocking = blocking
        self._threads = threads
        self._timeout = timeout

    async def describe(self, collection: str) -> Mapping[str, Any] | None:
        """The collection's description, or None if it does not exist."""
        try:
            found: Mapping[str, Any] = await self._client.describe_collection(collection, timeout=self._timeout)
        except MilvusException as error:
            if is_missing(error):
                return None
            raise
        return found

    async def describe_index(self, collection: str, field: str) -> Mapping[str, Any] | None:
        """The description of the field's index, or None if it has none."""
        found: Mapping[str, Any] | None = await self._client.describe_index(collection, field, timeout=self._timeout)
        # For a field without an index, Milvus Lite returns another field's index.
        return found if found and found["field_name"] == field else None

    async def create(self, collection: str, fields: CollectionSchema) -> Mapping[str, Any]:
        """Creates the collection, unless another caller has just created it. Returns its description."""
        refusal: MilvusException | None = None
        try:
            await self._client.create_collection(
                collection,
                schema=fields,
                num_shards=schema.NUM_SHARDS,
                consistency_level=schema.CONSISTENCY,
                timeout=self._timeout,
            )
        except MilvusException as error:
            refusal = error
        for _ in range(20):  # Milvus Lite refuses a second caller before the first one's collection is visible.
            if description := await self.describe(collection):
                return description
            await asyncio.sleep(0.05)
        raise refusal or MilvusException(message="dropped while it was created")

    async def create_index(self, collection: str, field: str) -> None:
        """Creates the field's index unless it exists. ``sync=False`` saves half a second: no rows, nothing to build."""
        build = partial(self._blocking.create_index, collection, schema.index_params(field), sync=False)
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._threads, partial(build, timeout=self._timeout))
        except MilvusException:
            if await self.describe_index(collection, field) is None:
                raise

    async def first_rows(
        self, collection: str, condition: str, fields: Sequence[str], limit: int
    ) -> Sequence[Mapping[str, Any]]:
        """The rows with the smallest primary keys that meet the condition, in any order; about ``limit`` of them.

        A plain query with a limit returns arbitrary rows. With the parameters of pymilvus's own iterator (``iterator``,
        ``reduce_stop_for_best``) Milvus and Milvus Lite return those with the smallest keys. Such a query has no
        consistency level of its own, so the collection's level applies, which is Strong. Milvus applies the limit to
        each segment and then merges: there may be fewer rows although more follow (replaced versions are dropped), or
        more rows, up to the end of the first segment.
        """
        rows: Sequence[Mapping[str, Any]] = await self._client.query(
            collection,
            filter=condition,
            output_fields=list(fields),
            limit=limit,
            iterator="True",
            reduce_stop_for_best="True",
            timeout=self._timeout,
        )
        return rows
