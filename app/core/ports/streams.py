"""What core expects of the record about bulk loads."""

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from app.schemas.stream_rows import LineResults, LinesKey, PartName, PartState, ResultPlace, StoredResults, StreamTotals


class StreamPort(Protocol):
    """T1 and T2 of ``WritePort`` take a LinesKey too: they move a part on together with the documents of its lines."""

    async def part(self, name: PartName) -> PartState | None:
        """None when nothing of the part is stored, or the bot does not exist."""

    async def advance(self, key: LinesKey, results: LineResults) -> None:
        """Stores results of lines none of which wrote a document. Raises BotNotFound, and PartInProgress as T1."""

    async def totals(self, bot_id: UUID, stream_key: str) -> StreamTotals:
        """All zero for a stream that is not known."""

    async def parts(self, bot_id: UUID, stream_key: str, after: int, limit: int) -> Sequence[PartState]:
        """The parts with a higher number than ``after``, in order."""

    async def results(
        self, bot_id: UUID, stream_key: str, after: ResultPlace, limit: int, *, failed: bool
    ) -> Sequence[StoredResults]:
        """Those of at most ``limit`` transactions, in order, the first of which may have lines up to ``after`` too.

        ``failed``: only of those with a failed line.
        """

    async def sweep(self) -> None:
        """Deletes streams that are old enough and not in flight."""
