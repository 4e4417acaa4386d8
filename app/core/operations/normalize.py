"""Puts documents that were stored before names were in NFC into NFC: ``python -m app.cli normalize``.

It can be killed at any moment and run again: it skips documents that are in NFC. A bot is marked when all are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from app.core.ports import NormalizePort
from app.schemas.operation_rows import DocumentFields
from app.utils.unicode import CollidingKeys, nfc, nfc_json

PAGE_DOCUMENTS = 500


@dataclass(slots=True)
class Normalization:
    """The result for one bot. ``collisions``: doc_id and the key that its metadata would have twice."""

    rewritten: int = 0
    collisions: list[tuple[int, str]] = field(default_factory=list)


class Normalizer:
    """All methods raise DatabaseUnavailable."""

    def __init__(self, store: NormalizePort) -> None:
        self._store = store

    async def bots(self, bot_ids: Sequence[UUID] | None) -> Sequence[UUID]:
        """As ``NormalizePort.bots``."""
        return await self._store.bots(bot_ids)

    async def documents(self, bot_id: UUID) -> int:
        return await self._store.documents(bot_id)

    async def run(self, bot_id: UUID, progress: Callable[[int], object]) -> Normalization:
        """Rewrites the bot's documents. One whose keys collide keeps its metadata; then the bot is not marked."""
        done = Normalization()

        def change(doc_id: int, old: DocumentFields) -> DocumentFields:
            try:
                metadata = nfc_json(old["metadata"])
            except CollidingKeys as exc:
                done.collisions.append((doc_id, exc.key))
                metadata = old["metadata"]
            texts = {name: value and nfc(value) for name, value in old.items() if name not in ("tags", "metadata")}
            return {**texts, "tags": [nfc(tag) for tag in old["tags"]], "metadata": metadata}

        after = 0
        while page := await self._store.rewrite(bot_id, after, PAGE_DOCUMENTS, change):
            after = page.last
            done.rewritten += page.rewritten
            progress(page.documents)
        if not done.collisions:
            await self._store.finish(bot_id)
        return done
