"""Making, describing and paging through collections, where Milvus or pymilvus need care.

Every method raises MilvusException, which who calls it translates; each may be called again, also by several processes
at once.
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
        """None where there is none."""
        try:
            found: Mapping[str, Any] = await self._client.describe_collection(collection, timeout=self._timeout)
        except MilvusException as error:
            if is_missing(error):
                return None
            raise
        return found

    async def describe_index(self, collection: str, field: str) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = await self._client.describe_index(collection, field, timeout=self._timeout)
        # Asked for an index that is not there, Milvus Lite shows another one.
        return found if found and found["field_name"] == field else None

    async def create(self, collection: str, fields: CollectionSchema) -> Mapping[str, Any]:
        """Makes the collection or finds the one that somebody else made at the same moment: its description."""
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
        for _ in range(20):  # Milvus Lite refuses the second caller a moment before the first one's is there
            if description := await self.describe(collection):
                return description
            await asyncio.sleep(0.05)
        raise refusal or MilvusException(message="dropped while it was made")

    async def create_index(self, collection: str, field: str) -> None:
        """As above. ``sync=False``: an index of no rows is ready at once, no need to wait half a second for it."""
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
        """Rows with the smallest primary keys that meet the condition, in any order; more or fewer than ``limit``.

        A plain query with a limit returns any rows it likes. Asked as pymilvus's own iterator asks (``iterator``,
        ``reduce_stop_for_best``), Milvus and Milvus Lite return the smallest keys. Such a query takes no consistency
        level, so the collection's own holds, which is Strong. Milvus limits each segment, then merges: there may be
        fewer, as what an upsert replaced drops out, though more follow; and more, up to the first segment's end.
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
