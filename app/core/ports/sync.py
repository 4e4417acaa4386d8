"""What core expects of the record about synchronizations: sessions that make a bot equal to a client's documents."""

from collections.abc import Collection
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from app.schemas.rows import MissingDeleted


class SyncPort(Protocol):
    """A bot has at most one session. Every method but ``begin`` and ``end`` renews its lease, and returns None when the
    bot has no session ``session_id``: it was ended, or another one began after its lease."""

    async def begin(self, bot_id: UUID, session_id: UUID, lease: timedelta) -> bool:
        """Begins a session, which expects every document that has an external_id at this moment.

        False, with nothing done, while the lease of another session lasts, or when there is no such bot.
        """

    async def found(
        self, bot_id: UUID, session_id: UUID, external_ids: Collection[str], lease: timedelta, *, incomplete: bool
    ) -> bool | None:
        """The client has these documents. ``incomplete``: it has others that could not be read. Returns True."""

    async def count_missing(self, bot_id: UUID, session_id: UUID, lease: timedelta) -> int | None:
        """How many of the expected documents the client has not sent."""

    async def is_incomplete(self, bot_id: UUID, session_id: UUID, lease: timedelta) -> bool | None:
        """Whether the client has documents that could not be read."""

    async def delete_missing(
        self, bot_id: UUID, session_id: UUID, limit: int, lease: timedelta
    ) -> MissingDeleted | None:
        """Deletes, as ``DocumentPort.delete``, at most ``limit`` of the documents that the client has not sent."""

    async def end(self, bot_id: UUID, session_id: UUID) -> bool:
        """Ends the session. False when the bot has no such session."""
