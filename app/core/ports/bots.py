"""What core expects of the record about bots: the registry, and the sagas of whole bots."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from app.schemas.rows import Bot, BotChanges, BotCounts, BotSaga, Mode


class BotPort(Protocol):
    """``account`` None means any account. A bot that is being deleted is unknown to every method but ``state``,
    ``collections``, ``creation_in_flight`` and ``finish_deletion``."""

    async def get(self, bot_id: UUID, account: str | None) -> Bot | None:
        """The bot with its ``in_flight_generations``; None when the account has no such bot."""

    async def get_many(self, bot_ids: Sequence[UUID], account: str | None) -> dict[UUID, Bot]:
        """Those of the bots that exist, by bot_id, without their ``in_flight_generations``."""

    async def list(
        self, account: str | None, after: tuple[datetime, UUID] | None = None, limit: int | None = None
    ) -> Sequence[Bot]:
        """The account's bots in the order of (``created_at``, ``bot_id``), without their ``in_flight_generations``.

        Only those behind ``after``, and at most ``limit`` of them.
        """

    async def count(self, account: str | None) -> int:
        """The number of all bots of the account."""

    async def find(self, collection_name: str, account: str | None) -> UUID | None:
        """The bot_id of the account's bot with this ``collection_name``; None when there is none."""

    async def update(self, bot_id: UUID, account: str | None, changes: BotChanges) -> bool:
        """Sets the columns in ``changes``; False when the account has no such bot."""

    async def counts(self, bot_id: UUID) -> BotCounts:
        """What the bot holds and its backlog; all 0 for an unknown bot."""

    async def insert(
        self,
        bot_id: UUID,
        bot_name: str,
        collection_name: str,
        account: str,
        token: UUID,
        lease: timedelta,
        *,
        analyzer_version: int = 1,
        title_in_lexical: bool = False,
        default_mode: Mode | None = None,
        default_dense_weight: float | None = None,
        default_min_confidence: float | None = None,
        pinned: bool = False,
    ) -> int | None:
        """Registers the bot, makes its partitions and begins the saga CREATE_BOT that makes its collection.

        Returns the saga's generation; None when the bot_id is registered already. Raises CollectionNameTaken when
        another bot has this ``collection_name``, and QuotaExceeded when the account has as many bots as its quota
        allows; then nothing is stored.
        """

    async def begin_creation(self, bot_id: UUID, token: UUID, lease: timedelta) -> int | None:
        """Begins the saga CREATE_BOT that makes the collection of a registered bot.

        Returns the saga's generation, which is greater than those of the bot's earlier creations; None when the bot
        does not exist.
        """

    async def finish_creation(
        self, saga: int, bot_id: UUID, collection: str, model: str, dimension: int, token: UUID
    ) -> bool:
        """Ends the saga that created ``collection``. A bot without a model gets this one.

        False, with nothing done, when the bot has another collection by now.
        """

    async def end_saga(self, saga: int, token: UUID) -> None:
        """Ends a saga of a whole bot. No effect when it is not ``token``'s."""

    async def begin_deletion(self, bot_id: UUID, account: str | None, token: UUID, lease: timedelta) -> int | None:
        """Marks the bot as being deleted and begins the saga DELETE_BOT.

        Returns the saga's generation; None when the account has no such bot.
        """

    async def state(self, bot_id: UUID) -> tuple[str, str, int | None] | None:
        """(state "active" or "deleting", collection in Milvus, dimension); None when there is no such row."""

    async def collections(self, bot_id: UUID, dimension: int) -> Sequence[tuple[str, int | None]]:
        """All collections that the bot has in Milvus: its own, the one being filled, and those that are to be dropped.

        And the first one, which a slow creation may have made although the bot got another one.

        Each with its dimension: ``dimension`` where the bot has no model yet, None where any may be dropped.
        """

    async def creation_in_flight(self, bot_id: UUID, before: int | None = None) -> bool:
        """Whether a saga CREATE_BOT of the bot is in flight; with ``before``, one that began before this saga."""

    async def finish_deletion(self, bot_id: UUID) -> bool:
        """Drops the partitions, the registry row and the sagas of a bot that is being deleted.

        Generations whose vectors may still appear in Milvus go to ``vector_gc``. False when a lock was not granted in
        time: try again. A bot that is active stays, as happens when PostgreSQL was restored during the deletion.
        """

    async def claim_expired(self, token: UUID, lease: timedelta) -> BotSaga | None:
        """Gives the oldest saga of a whole bot whose lease has expired to ``token``; None when there is none."""

    async def begin_replacement(self, bot_id: UUID, token: UUID, lease: timedelta) -> BotSaga:
        """Begins a saga DROP_COLLECTION with a new collection name, for a collection that replaces the bot's.

        Unless ``replace_collection`` follows, recovery drops that collection once the lease has expired.
        """

    async def replace_collection(self, bot: Bot, replacement: BotSaga, model: str, dimension: int, token: UUID) -> bool:
        """Makes the replacement's collection the bot's, and marks the bot as one to be rebuilt if it has a document, or
        a write of one is in flight.

        A bot without a model gets this one; the creation of its first collection is in flight, and drops it. Of another
        bot, a collection that may still appear under the former name is dropped after the late-write window. False,
        with nothing done, when the bot does not exist, its collection or model is not that of ``bot`` any more, or the
        saga is not ``token``'s.
        """
