"""StreamPort in plain memory, and the parts of T1 and T2 that are about parts of streams."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from app.schemas.stream_rows import LineResults, LinesKey, PartName, PartState, ResultPlace, StoredResults, StreamTotals
from app.utils.errors import BotNotFound, PartInProgress
from tests.doubles.memory_store.tables import PartRow, Tables


def claim(tables: Tables, key: LinesKey) -> None:
    row = tables.parts.get(key.name)
    if row is None:
        if key.after:
            raise PartInProgress
        row = tables.parts[key.name] = PartRow(tables.now())
    if row.lines != key.after or row.generation in tables.sagas:
        raise PartInProgress
    row.updated_at = tables.now()


def assign(tables: Tables, key: LinesKey, generation: int) -> None:
    tables.parts[key.name].generation = generation


def lock(tables: Tables, key: LinesKey) -> bool:
    row = tables.parts.get(key.name)
    return row is not None and (row.lines, row.generation) == (key.after, key.generation)


def store_results(tables: Tables, key: LinesKey, done: LineResults) -> None:
    row = tables.parts[key.name]
    row.lines, row.sha256, row.generation, row.updated_at = key.last_line, key.sha256, None, tables.now()
    row.stored += done.stored
    row.failed += done.failed
    row.results.append((key.last_line, done))


class MemoryStreamStore:
    def __init__(self, tables: Tables, keep: timedelta) -> None:
        self._tables = tables
        self._keep = keep

    async def part(self, name: PartName) -> PartState | None:
        row = self._tables.parts.get(name)
        return self._state(name, row) if row else None

    async def advance(self, key: LinesKey, results: LineResults) -> None:
        if self._tables.active(key.name.bot_id) is None:
            raise BotNotFound
        claim(self._tables, key)
        store_results(self._tables, key, results)

    async def totals(self, bot_id: UUID, stream_key: str) -> StreamTotals:
        parts = await self.parts(bot_id, stream_key, -1, len(self._tables.parts))
        return StreamTotals(
            len(parts),
            sum(part.lines for part in parts),
            sum(part.stored for part in parts),
            sum(part.failed for part in parts),
        )

    async def parts(self, bot_id: UUID, stream_key: str, after: int, limit: int) -> Sequence[PartState]:
        found = self._of_stream(bot_id, stream_key)
        return [self._state(name, row) for name, row in found if name.part > after][:limit]

    async def results(
        self, bot_id: UUID, stream_key: str, after: ResultPlace, limit: int, *, failed: bool
    ) -> Sequence[StoredResults]:
        found = [
            StoredResults(ResultPlace(name.part, last_line), done.results)
            for name, row in self._of_stream(bot_id, stream_key)
            for last_line, done in row.results
            if (name.part, last_line) > after and (done.failed or not failed)
        ]
        return found[:limit]

    async def sweep(self) -> None:
        oldest = self._tables.now() - self._keep
        parts = self._tables.parts
        recent = {name[:2] for name, row in parts.items() if row.updated_at >= oldest}
        for name, row in list(parts.items()):
            if name[:2] not in recent and row.generation not in self._tables.sagas:
                del parts[name]

    def _of_stream(self, bot_id: UUID, stream_key: str) -> list[tuple[PartName, PartRow]]:
        return sorted(one for one in self._tables.parts.items() if one[0][:2] == (bot_id, stream_key))

    def _state(self, name: PartName, row: PartRow) -> PartState:
        in_flight = row.generation in self._tables.sagas
        return PartState(name.part, row.lines, row.sha256, row.stored, row.failed, in_flight, row.updated_at)
