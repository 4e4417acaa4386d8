"""Creates the collection of a bot: its first one, and another one after Milvus lost it.

Only the earliest creation in flight of a bot without a model may create the collection that its row names. Every other
creation takes a new name and switches the row. Otherwise a slow call could create a collection again, empty, that
another process had created, filled and lost meanwhile.
"""

import asyncio
import logging
from collections.abc import Coroutine
from functools import partial
from typing import Any
from uuid import UUID

from app.core.embedding.registry import EmbedderRegistry
from app.core.leases.leases import Leases
from app.core.ports import BotPort, VectorIndex
from app.schemas.rows import Bot
from app.utils.errors import BotNotFound, CollectionForeign, CollectionMoved, LeaseLost
from app.utils.failpoints import failpoint

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05
"""Pause between two looks at sagas of other processes."""
CREATION_PATIENCE = 1.0
"""Seconds that a first use waits for a creation in another process before it creates a collection with a new name."""


class Creations:
    """Those of one process: of each bot one at a time, for which all callers wait."""

    def __init__(self, store: BotPort, index: VectorIndex, embedders: EmbedderRegistry, leases: Leases) -> None:
        self._store = store
        self._index = index
        self._embedders = embedders
        self._leases = leases
        self._tasks: dict[UUID, asyncio.Task[None]] = {}

    async def ensure(self, bot: Bot) -> None:
        """Creates the missing collection of a registered bot. Raises BotNotFound, CollectionForeign.

        Raises CollectionMoved when the bot's row names another collection than ``bot`` by now. So it does after a loss:
        the bot then has a new collection, and is being rebuilt if it had chunks.
        """
        task = self._tasks.get(bot.bot_id) or self._share(bot.bot_id, self._begin(bot))
        # Shielded: several callers share the task, and one may be cancelled.
        await asyncio.shield(task)

    async def first(self, bot: Bot, saga: int, began_at: float) -> None:
        """As ``create``, for a bot that was just registered. Other callers of this process wait for it too."""
        await asyncio.shield(self._share(bot.bot_id, self.create(bot, saga, began_at)))

    async def create(self, bot: Bot, saga: int, began_at: float | None = None) -> None:
        """Creates the first collection of a bot. Its saga is the earliest creation in flight.

        Nothing is written to the bot before its row has a model. So the collection cannot be one that had rows.
        """
        model = self._embedders.current
        with self._leases.holding([saga], since=began_at):
            await failpoint("bot_create.before_collection")
            now = await self._store.get(bot.bot_id, None)
            if now is not None and now.embedding_model is None:
                if not self._leases.alive([saga]):  # Recovery may have ended the saga, and the bot may be deleted.
                    raise LeaseLost("Creating the bot's collection took longer than its lease.")
                try:
                    await self._index.create(bot.collection_name, model.dimension)
                except CollectionForeign:
                    await self._store.end_saga(saga, self._leases.token)
                    raise
                await failpoint("bot_create.after_collection")
                if await self._store.finish_creation(
                    saga, bot.bot_id, bot.collection_name, model.model, model.dimension, self._leases.token
                ):
                    await failpoint("bot_create.after_finish")
                    return
                now = await self._store.get(bot.bot_id, None)
            if now is not None and now.milvus_collection != bot.collection_name:  # A later creation was faster.
                await self._index.drop(bot.collection_name, model.dimension)
            await self._store.end_saga(saga, self._leases.token)

    def _share(self, bot_id: UUID, creation: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Starts the creation as a task that other callers of this process wait for."""
        task = self._tasks[bot_id] = asyncio.create_task(creation)
        task.add_done_callback(partial(self._forget, bot_id))
        return task

    def _forget(self, bot_id: UUID, task: asyncio.Task[None]) -> None:
        if self._tasks.get(bot_id) is task:
            del self._tasks[bot_id]
        if not task.cancelled():
            task.exception()  # Marks it as retrieved: every caller may have been cancelled.

    async def _begin(self, bot: Bot) -> None:
        began_at = asyncio.get_running_loop().time()
        saga = await self._store.begin_creation(bot.bot_id, self._leases.token, self._leases.length)
        if saga is None:
            raise BotNotFound()
        # From here on no deletion can finish. The bot may have been deleted and registered again before.
        is_earliest = bot.embedding_model is None and not await self._earlier(bot.bot_id, saga)
        now = await self._store.get(bot.bot_id, None)
        if now is None or now.collection_name != bot.collection_name:
            await self._store.end_saga(saga, self._leases.token)
            raise BotNotFound()
        if now.milvus_collection != bot.milvus_collection or now.created_at != bot.created_at:
            await self._store.end_saga(saga, self._leases.token)
            raise CollectionMoved()
        if now.embedding_model is None and is_earliest:
            await self.create(now, saga, began_at)
            return
        if now.embedding_model is None or now.milvus_collection not in await self._index.collections():
            await self._replace(now, saga, began_at)
        await self._store.end_saga(saga, self._leases.token)  # Another process has created it meanwhile.

    async def _earlier(self, bot_id: UUID, saga: int) -> bool:
        """Whether a creation that began before ``saga`` is still in flight after CREATION_PATIENCE."""
        end = asyncio.get_running_loop().time() + CREATION_PATIENCE
        while in_flight := await self._store.creation_in_flight(bot_id, before=saga):
            if asyncio.get_running_loop().time() > end:
                break
            await asyncio.sleep(POLL_SECONDS)
        return in_flight

    async def _replace(self, bot: Bot, saga: int, began_at: float) -> None:
        """Gives the bot an empty collection with a new name. Always raises CollectionMoved.

        It is created first, under a saga that drops it if this process dies. Only then the bot's row names it. So a
        collection that the row of a bot with a model names and Milvus does not have was lost. A bot that has chunks is
        rebuilt.
        """
        model = self._embedders.current
        with self._leases.holding([saga], since=began_at):
            begins_at = asyncio.get_running_loop().time()
            new = await self._store.begin_replacement(bot.bot_id, self._leases.token, self._leases.length)
            assert new.collection_name is not None
            with self._leases.holding([new.generation], since=begins_at):
                if not self._leases.alive([saga, new.generation]):
                    raise LeaseLost("Creating the bot's collection took longer than its lease.")
                await failpoint("rebuild.before_collection")
                await self._index.create(new.collection_name, bot.dimension or model.dimension)
                await failpoint("rebuild.after_collection")
                if await self._store.replace_collection(bot, new, model.model, model.dimension, self._leases.token):
                    log.warning(
                        "bot %s has collection %s now, not %s", bot.bot_id, new.collection_name, bot.milvus_collection
                    )
                else:
                    await self._index.drop(new.collection_name)
                    await self._store.end_saga(new.generation, self._leases.token)
                await failpoint("rebuild.after_switch")
            await self._store.end_saga(saga, self._leases.token)
        raise CollectionMoved()
