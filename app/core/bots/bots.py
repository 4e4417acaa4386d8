"""Registers and deletes bots: a row in PostgreSQL and a collection in Milvus, both or neither.

Creating and dropping a collection are sagas. The row of a creation's saga is removed only when the outcome in Milvus is
known. A deletion waits for such rows, so that no collection can appear after it.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from app.core.analyzers.analyzers import NEWEST
from app.core.bots.creations import POLL_SECONDS, Creations
from app.core.bots.loads import Loads
from app.core.bots.modes import check_mode
from app.core.embedding.registry import EmbedderRegistry
from app.core.leases.leases import Leases
from app.core.ports import BotPort, VectorIndex
from app.schemas.operation_rows import LoadState
from app.schemas.rows import CREATE_BOT, DROP_COLLECTION, Bot, BotChanges, BotCounts, BotSaga, Mode
from app.utils.errors import (
    AppError,
    BotExists,
    BotNotFound,
    CollectionForeign,
    CollectionMissing,
    CollectionMoved,
    DatabaseRightsMissing,
    ErrorLocation,
    InvalidInput,
    LeaseLost,
    Unavailable,
)
from app.utils.failpoints import failpoint

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NewBot:
    """The defaults of searches are None if they are not named."""

    bot_id: UUID
    bot_name: str
    collection_name: str
    account_name: str
    dimension: int | None = None
    title_in_lexical: bool | None = None
    """Whether the words of a document's title find each of its chunks; yes if it is not named."""
    default_mode: Mode | None = None
    default_dense_weight: float | None = None
    default_min_confidence: float | None = None
    pinned: bool | None = None
    """Whether the collection stays in Milvus's memory; no if it is not named."""

    def agrees_with(self, bot: Bot) -> bool:
        """Whether the bot has all values that are named here."""
        return (
            (bot.bot_name, bot.collection_name, bot.account_name)
            == (self.bot_name, self.collection_name, self.account_name)
            and self.title_in_lexical in (None, bot.title_in_lexical)
            and self.default_mode in (None, bot.default_mode)
            and self.default_dense_weight in (None, bot.default_dense_weight)
            and self.default_min_confidence in (None, bot.default_min_confidence)
            and self.pinned in (None, bot.pinned)
        )


@dataclass(frozen=True, slots=True)
class BotPage:
    """A page of an account's bots. ``total``: how many it has in all. ``counts``: of each bot, if requested.

    ``last``: the bot that the next page begins behind; None on the last page.
    """

    bots: Sequence[Bot]
    total: int
    counts: Sequence[BotCounts] | None
    last: Bot | None


class Bots:
    """``deadline``: seconds that a deletion waits for other sagas before it leaves the rest to recovery."""

    def __init__(
        self,
        store: BotPort,
        index: VectorIndex,
        embedders: EmbedderRegistry,
        leases: Leases,
        *,
        deadline: float,
        loads: Loads,
    ) -> None:
        self._store = store
        self._index = index
        self._embedders = embedders
        self._leases = leases
        self._deadline = deadline
        self._loads = loads
        self._creations = Creations(store, index, embedders, leases)

    async def create(self, new: NewBot) -> tuple[Bot, bool]:
        """Registers the bot and creates its collection. Returns the bot and whether it is new.

        Raises InvalidInput for a dimension other than the model's, UnsupportedMode, BotExists, CollectionNameTaken and
        CollectionForeign. After each of these nothing is stored.
        """
        model = self._embedders.current
        if new.dimension not in (None, model.dimension):
            detail = f"{model.model} makes vectors of {model.dimension} dimensions."
            raise InvalidInput(detail, locations=[ErrorLocation("body.dimension", detail)])
        check_mode(new.default_mode, self._index.bm25)
        began_at = asyncio.get_running_loop().time()
        await failpoint("bot_create.before_register")
        saga = await self._store.insert(
            new.bot_id,
            new.bot_name,
            new.collection_name,
            new.account_name,
            self._leases.token,
            self._leases.length,
            analyzer_version=NEWEST,
            default_mode=new.default_mode,
            default_dense_weight=new.default_dense_weight,
            default_min_confidence=new.default_min_confidence,
            title_in_lexical=new.title_in_lexical is not False,
            pinned=new.pinned is True,
        )
        await failpoint("bot_create.after_register")
        bot = await self._store.get(new.bot_id, None)
        if bot is None:
            if saga is not None:
                await self._store.end_saga(saga, self._leases.token)  # The bot's deletion waits for it.
            raise BotExists("A bot with this chat_bot_id is being deleted.")
        # A bot that is new may have been changed already.
        if saga is None and not new.agrees_with(bot):
            raise BotExists("A bot with this chat_bot_id exists and has other values.")
        if saga is not None:
            try:
                await self._creations.first(bot, saga, began_at)
            except CollectionForeign:
                await self.delete(new.bot_id, None)
                raise
        return await self.usable(new.bot_id, None), saga is not None

    async def usable(self, bot_id: UUID, account: str | None) -> Bot:
        """The bot, with its collection created if it had none.

        Raises BotNotFound, and ModelMismatch if its vectors come from a model that this server does not run.
        """
        return await self._with_collection(await self.get(bot_id, account))

    async def usable_many(self, bot_ids: Sequence[UUID], account: str | None) -> dict[UUID, Bot | AppError]:
        """As ``usable`` for several bots; the value of a bot that is not usable is its error."""
        found = await self._store.get_many(bot_ids, account)
        results = await asyncio.gather(*(self._with_collection(bot) for bot in found.values()), return_exceptions=True)
        outcome: dict[UUID, Bot | AppError] = {bot_id: BotNotFound() for bot_id in bot_ids}
        for bot_id, result in zip(found, results, strict=True):
            if isinstance(result, BaseException) and not isinstance(result, AppError):
                raise result
            outcome[bot_id] = result
        return outcome

    async def counts(self, bot_id: UUID) -> BotCounts:
        """All 0 for an unknown bot."""
        return await self._store.counts(bot_id)

    async def get_with_counts(self, bot_id: UUID, account: str | None) -> tuple[Bot, BotCounts]:
        """The bot, its numbers of documents and chunks, and its backlog. Raises BotNotFound."""
        return await self.get(bot_id, account), await self._store.counts(bot_id)

    async def get(self, bot_id: UUID, account: str | None) -> Bot:
        """The bot's row. ``account`` None: of any account. Raises BotNotFound."""
        bot = await self._store.get(bot_id, account)
        if bot is None:
            raise BotNotFound()
        return bot

    async def resolve(self, name: str, account: str | None) -> UUID:
        """The bot_id of the bot with this bot_id or collection_name. Raises BotNotFound.

        A bot_id is not looked up: the caller's next step does that.
        """
        if "-" in name:  # As no collection_name has it.
            try:
                return UUID(name)
            except ValueError:
                raise BotNotFound() from None
        bot_id = None if "\0" in name else await self._store.find(name, account)  # PostgreSQL refuses a text with NUL.
        if bot_id is None:
            raise BotNotFound()
        return bot_id

    async def update(self, bot_id: UUID, account: str | None, changes: BotChanges) -> Bot:
        """Changes columns of the bot's row; the bot as it is then. Raises BotNotFound, UnsupportedMode."""
        if (mode := changes.get("default_mode")) not in (None, "dense"):
            check_mode(mode, await self.supports_lexical(await self.get(bot_id, account)))
        if not await self._store.update(bot_id, account, changes):
            raise BotNotFound()
        return await self.get(bot_id, account)

    async def list(
        self,
        account: str | None,
        after: tuple[datetime, UUID] | None = None,
        limit: int | None = None,
        *,
        with_counts: bool = False,
    ) -> BotPage:
        """At most ``limit`` of the account's bots behind ``after``, in the order of (``created_at``, ``bot_id``)."""
        found = await self._store.list(account, after, None if limit is None else limit + 1)
        bots = found[:limit]
        is_complete = after is None and len(bots) == len(found)
        return BotPage(
            bots,
            len(bots) if is_complete else await self._store.count(account),
            [await self._store.counts(bot.bot_id) for bot in bots] if with_counts else None,
            bots[-1] if len(bots) < len(found) else None,
        )

    async def delete(self, bot_id: UUID, account: str | None) -> None:
        """Removes the bot's row, partitions and collection. From the first step on the bot is unknown to all calls.

        Raises BotNotFound, and Unavailable when the deletion did not finish in time: recovery then finishes it.
        """
        await failpoint("bot_delete.before_mark")
        saga = await self._store.begin_deletion(bot_id, account, self._leases.token, self._leases.length)
        if saga is None:
            raise BotNotFound()
        with self._leases.holding([saga]):
            await failpoint("bot_delete.after_mark")
            await self._remove(bot_id)

    async def warm(self, bot_id: UUID, account: str | None) -> tuple[Bot, Literal["loaded", "loading"]]:
        """Starts to load the bot's collection if it is not loaded, and returns at once. Raises as ``usable``."""
        bot = await self.usable(bot_id, account)
        return bot, await self._loads.begin(bot.milvus_collection)

    async def load_states(self, bots: Sequence[Bot]) -> Sequence[LoadState | None]:
        """Whether each bot's collection is loaded; None where that is not recorded."""
        states = await self._loads.states([bot.milvus_collection for bot in bots])
        return [None if states is None else states[bot.milvus_collection] for bot in bots]

    async def supports_lexical(self, bot: Bot) -> bool:
        """Whether the bot can be searched in lexical and hybrid mode."""
        try:
            return await self._index.supports_lexical(bot.milvus_collection)
        except CollectionMissing:  # It is made when it is needed.
            return self._index.bm25

    async def ensure_collection(self, bot: Bot) -> None:
        """Creates the missing collection of a registered bot. Raises as ``Creations.ensure``."""
        await self._creations.ensure(bot)

    async def resume(self, saga: BotSaga) -> None:
        """Finishes a saga whose process died. Raises Unavailable: the saga is resumed again after its new lease."""
        with self._leases.holding([saga.generation]):
            state = await self._store.state(saga.bot_id)
            if saga.operation == CREATE_BOT and state is not None and state[0] == "active":
                bot = await self.get(saga.bot_id, None)
                if await self._store.creation_in_flight(saga.bot_id, before=saga.generation):
                    await self._store.end_saga(saga.generation, self._leases.token)
                    return
                try:
                    await self._creations.create(bot, saga.generation)
                except CollectionForeign:
                    log.error("bot %s cannot have its collection: Milvus has a foreign one of that name", saga.bot_id)
            elif saga.operation == CREATE_BOT:
                await self._store.end_saga(saga.generation, self._leases.token)
            elif saga.operation == DROP_COLLECTION:
                await self.drop_collection(saga)
            else:
                await self._remove(saga.bot_id)

    async def drop_collection(self, saga: BotSaga) -> None:
        """Drops a collection that the bot no longer uses. The caller holds the saga's lease.

        Raises LeaseLost, and Unavailable when a collection of the bot is still being created at the deadline.
        """
        assert saga.collection_name is not None
        try:
            async with asyncio.timeout(self._deadline):
                # A creation in another process may have read the bot's row before the bot moved.
                while await self._store.creation_in_flight(saga.bot_id):
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError as exc:
            raise Unavailable("The bot's collection is being created; its former one is dropped later.") from exc
        await failpoint("drop_collection.before")
        if not self._leases.alive([saga.generation]):
            raise LeaseLost("Dropping a collection took longer than its lease.")
        await self._index.drop(saga.collection_name)
        await failpoint("drop_collection.after")
        await self._store.end_saga(saga.generation, self._leases.token)

    async def _with_collection(self, bot: Bot) -> Bot:
        if bot.embedding_model is None:
            with suppress(CollectionMoved):
                await self.ensure_collection(bot)
            bot = await self.get(bot.bot_id, None)
            if bot.embedding_model is None:  # It was deleted and registered again meanwhile.
                raise CollectionMoved()
        self._embedders.of(bot)
        return bot

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
            raise Unavailable("The bot is marked as deleted. The rest of it is removed soon.") from exc
        except DatabaseRightsMissing as exc:
            raise DatabaseRightsMissing(
                "The bot is marked as deleted, but PostgreSQL does not allow the server's role to drop its partitions: "
                "python -m app.cli verify names their owner."
            ) from exc
