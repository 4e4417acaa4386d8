"""Bots: registered in PostgreSQL, with a collection in Milvus, both or neither.

Making and removing a collection is a saga of its own. A creation's saga row is removed only when the outcome
in Milvus is known; a deletion waits for such rows, so that no collection can appear behind it.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from app.core.embedding.registry import EmbedderRegistry
from app.core.ports import BotPort, SagaLeases, VectorIndex
from app.schemas.rows import CREATE_BOT, DROP_COLLECTION, Bot, BotCounts, BotSaga
from app.utils.errors import (
    BotExists,
    BotNotFound,
    CollectionForeign,
    CollectionMoved,
    DatabaseRightsMissing,
    ErrorLocation,
    InvalidInput,
    LeaseLost,
    Unavailable,
)
from app.utils.failpoints import failpoint

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05
NOT_FOUND = "There is no bot with this chat_bot_id."


@dataclass(frozen=True, slots=True)
class NewBot:
    bot_id: UUID
    bot_name: str
    collection_name: str
    account_name: str
    dimension: int | None = None


class Bots:
    """``deadline`` is how long, in seconds, a deletion waits for others before it is left to recovery."""

    def __init__(
        self, store: BotPort, index: VectorIndex, embedders: EmbedderRegistry, leases: SagaLeases, *, deadline: float
    ) -> None:
        self._store = store
        self._index = index
        self._embedders = embedders
        self._leases = leases
        self._deadline = deadline
        self._making: dict[UUID, asyncio.Task[None]] = {}

    async def create(self, new: NewBot) -> tuple[Bot, bool]:
        """Registers the bot and makes its collection; (bot, whether it is new).

        Raises InvalidInput for a dimension that is not the model's, BotExists, CollectionNameTaken,
        CollectionForeign; after each of them nothing is stored.
        """
        model = self._embedders.current
        if new.dimension not in (None, model.dimension):
            detail = f"{model.model} makes vectors of {model.dimension} dimensions."
            raise InvalidInput(detail, places=[ErrorLocation("body.dimension", detail)])
        began_at = asyncio.get_running_loop().time()
        await failpoint("bot_create.before_register")
        saga = await self._store.insert(
            new.bot_id, new.bot_name, new.collection_name, new.account_name, self._leases.token, self._leases.length
        )
        await failpoint("bot_create.after_register")
        bot = await self._store.get(new.bot_id, None)
        if bot is None:
            if saga is not None:
                await self._store.end_saga(saga, self._leases.token)  # The deletion waits for it.
            raise BotExists("A bot with this chat_bot_id is being deleted.")
        if (bot.bot_name, bot.collection_name, bot.account_name) != (
            new.bot_name,
            new.collection_name,
            new.account_name,
        ):
            raise BotExists("A bot with this chat_bot_id exists and has other values.")
        if saga is not None:
            try:
                await self._make(bot, saga, began_at)
            except CollectionForeign:
                await self.delete(new.bot_id, None)
                raise
        return await self.usable(new.bot_id, None), saga is not None

    async def usable(self, bot_id: UUID, account: str | None) -> Bot:
        """The bot, its collection made if that has not happened yet.

        Raises BotNotFound, and ModelMismatch when its vectors come from another model.
        """
        return await self._made(await self.known(bot_id, account))

    async def usable_many(self, bot_ids: Sequence[UUID], account: str | None) -> dict[UUID, Bot | Exception]:
        """As ``usable`` for several; what stands in a bot's way is its value."""
        found = await self._store.get_many(bot_ids, account)
        results = await asyncio.gather(*(self._made(bot) for bot in found.values()), return_exceptions=True)
        outcome: dict[UUID, Bot | Exception] = {bot_id: BotNotFound(NOT_FOUND) for bot_id in bot_ids}
        for bot_id, result in zip(found, results, strict=True):
            if isinstance(result, BaseException) and not isinstance(result, Exception):
                raise result
            outcome[bot_id] = result
        return outcome

    async def get(self, bot_id: UUID, account: str | None) -> tuple[Bot, BotCounts]:
        """The bot and what it holds. Raises BotNotFound."""
        return await self.known(bot_id, account), await self._store.counts(bot_id)

    async def known(self, bot_id: UUID, account: str | None) -> Bot:
        """The bot as it is registered. Raises BotNotFound."""
        bot = await self._store.get(bot_id, account)
        if bot is None:
            raise BotNotFound(NOT_FOUND)
        return bot

    async def list(self, account: str | None) -> Sequence[Bot]:
        return await self._store.list(account)

    async def delete(self, bot_id: UUID, account: str | None) -> None:
        """Removes registry row, partitions and collection. From the first step on the bot is unknown.

        Raises BotNotFound, and Unavailable when it could not be ended in time: recovery then ends it.
        """
        await failpoint("bot_delete.before_mark")
        saga = await self._store.begin_deletion(bot_id, account, self._leases.token, self._leases.length)
        if saga is None:
            raise BotNotFound(NOT_FOUND)
        with self._leases.holding([saga]):
            await failpoint("bot_delete.after_mark")
            await self._remove(bot_id)

    async def make_collection(self, bot: Bot) -> None:
        """Makes the collection of a registered bot that has none. Raises BotNotFound, CollectionForeign.

        Raises CollectionMoved when the bot has another collection than ``bot`` says; also when Milvus has lost what was
        in it: then the bot has a new one, and is being rebuilt.
        """
        task = self._making.get(bot.bot_id)
        if task is None:
            task = self._making[bot.bot_id] = asyncio.create_task(self._begin_and_make(bot))
            task.add_done_callback(partial(self._forget_task, bot.bot_id))
        # One caller's cancellation is not the others'.
        await asyncio.shield(task)

    async def resume(self, saga: BotSaga) -> None:
        """Ends a saga that its process has left. Raises Unavailable: to be tried again after its new lease."""
        with self._leases.holding([saga.generation]):
            state = await self._store.state(saga.bot_id)
            if saga.operation == CREATE_BOT and state is not None and state[0] == "active":
                bot = await self.known(saga.bot_id, None)
                if await self._is_lost(bot):  # Whoever needs it begins a rebuild: a new one would look whole.
                    await self._store.end_saga(saga.generation, self._leases.token)
                    return
                try:
                    await self._make(bot, saga.generation)
                except CollectionForeign:
                    log.error("bot %s cannot have its collection: Milvus holds a foreign one", saga.bot_id)
            elif saga.operation == CREATE_BOT:
                await self._store.end_saga(saga.generation, self._leases.token)
            elif saga.operation == DROP_COLLECTION:
                await self.drop_collection(saga)
            else:
                await self._remove(saga.bot_id)

    async def drop_collection(self, saga: BotSaga) -> None:
        """Drops what a bot has left behind; to be called while the saga's lease is held.

        Raises Unavailable when the bot's collection is being made all the while, and LeaseLost.
        """
        assert saga.collection_name is not None
        try:
            async with asyncio.timeout(self._deadline):
                # Whoever makes a collection may have read the bot's row before it moved.
                while await self._store.creation_in_flight(saga.bot_id):
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError as exc:
            raise Unavailable("The bot's collection is being made; what it left behind goes later.") from exc
        await failpoint("drop_collection.before")
        if not self._leases.alive([saga.generation]):
            raise LeaseLost("Dropping a collection took longer than its lease.")
        await self._index.drop(saga.collection_name)
        await failpoint("drop_collection.after")
        await self._store.end_saga(saga.generation, self._leases.token)

    async def _made(self, bot: Bot) -> Bot:
        if bot.embedding_model is None:
            await self.make_collection(bot)
            bot = await self.known(bot.bot_id, None)
        self._embedders.of(bot)
        return bot

    def _forget_task(self, bot_id: UUID, task: asyncio.Task[None]) -> None:
        del self._making[bot_id]
        if not task.cancelled():
            task.exception()  # Looked at here: every caller may have been cancelled.

    async def _begin_and_make(self, bot: Bot) -> None:
        began_at = asyncio.get_running_loop().time()
        saga = await self._store.begin_creation(bot.bot_id, self._leases.token, self._leases.length)
        if saga is None:
            raise BotNotFound(NOT_FOUND)
        # From here on no deletion ends. One may have ended before, and the bot been registered anew.
        now = await self._store.get(bot.bot_id, None)
        if now is None or now.collection_name != bot.collection_name:
            await self._store.end_saga(saga, self._leases.token)
            raise BotNotFound(NOT_FOUND)
        if now.milvus_collection != bot.milvus_collection or now.created_at != bot.created_at:
            await self._store.end_saga(saga, self._leases.token)
            raise CollectionMoved()
        if await self._is_lost(now):
            if now.milvus_collection not in await self._index.collections():
                await self._replace(now, saga, began_at)
            await self._store.end_saga(saga, self._leases.token)  # Made by somebody else since.
            return
        await self._make(now, saga, began_at)

    async def _is_lost(self, bot: Bot) -> bool:
        """Should the bot's collection be missing: whether it was made before, and something was in it."""
        return bot.embedding_model is not None and await self._store.has_chunks(bot.bot_id)

    async def _replace(self, bot: Bot, saga: int, began_at: float) -> None:
        """Gives a bot whose collection was lost an empty one, to be filled. Raises CollectionMoved in the end.

        First it is made, under a saga that drops it should this process die, then the bot gets it: so a collection that
        a bot's row names and Milvus does not have was always lost.
        """
        assert bot.dimension is not None
        with self._leases.holding([saga], since=began_at):
            begins_at = asyncio.get_running_loop().time()
            new = await self._store.begin_replacement(bot.bot_id, self._leases.token, self._leases.length)
            assert new.collection_name is not None
            with self._leases.holding([new.generation], since=begins_at):
                if not self._leases.alive([saga, new.generation]):
                    raise LeaseLost("Making the bot's collection took longer than its lease.")
                await failpoint("rebuild.before_collection")
                await self._index.create(new.collection_name, bot.dimension)
                await failpoint("rebuild.after_collection")
                lost = bot.milvus_collection
                if await self._store.replace_collection(bot.bot_id, lost, new, self._leases.token):
                    log.warning("bot %s: Milvus lost collection %s; it gets %s", bot.bot_id, lost, new.collection_name)
                else:
                    await self._index.drop(new.collection_name)
                    await self._store.end_saga(new.generation, self._leases.token)
                await failpoint("rebuild.after_switch")
            await self._store.end_saga(saga, self._leases.token)
        raise CollectionMoved()

    async def _make(self, bot: Bot, saga: int, began_at: float | None = None) -> None:
        model = self._embedders.current
        with self._leases.holding([saga], since=began_at):
            await failpoint("bot_create.before_collection")
            if bot.embedding_model is None:
                now = await self._store.get(bot.bot_id, None)
                if now is not None and await self._is_lost(now):  # Made by somebody else, and filled, since.
                    await self._store.end_saga(saga, self._leases.token)
                    return
            if not self._leases.alive([saga]):  # Recovery has ended it, and the bot may be gone since.
                raise LeaseLost("Making the bot's collection took longer than its lease.")
            try:
                await self._index.create(bot.milvus_collection, bot.dimension or model.dimension)
            except CollectionForeign:
                await self._store.end_saga(saga, self._leases.token)
                raise
            await failpoint("bot_create.after_collection")
            await self._store.finish_creation(saga, bot.bot_id, model.model, model.dimension, self._leases.token)
            await failpoint("bot_create.after_finish")

    async def _remove(self, bot_id: UUID) -> None:
        try:
            async with asyncio.timeout(self._deadline):
                while await self._store.creation_in_flight(bot_id):
                    await asyncio.sleep(POLL_SECONDS)
                collections = await self._store.collections(bot_id, self._embedders.current.dimension)
                await failpoint("bot_delete.before_drop")
                for name, dimension in collections:
                    await self._index.drop(name, dimension)
                await failpoint("bot_delete.after_drop")
                while not await self._store.finish_deletion(bot_id):
                    await asyncio.sleep(POLL_SECONDS)
                await failpoint("bot_delete.after_partitions")
        except TimeoutError as exc:
            raise Unavailable("The bot is marked as deleted; what is left of it will be removed soon.") from exc
        except DatabaseRightsMissing as exc:
            raise DatabaseRightsMissing(
                "The bot is marked as deleted, and PostgreSQL does not let the server's role drop its partitions: "
                "python -m app.cli verify says whose they are."
            ) from exc
