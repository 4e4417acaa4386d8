"""What T1 checks about external ids: that no other request writes them, and that they are where they were looked up."""

from collections.abc import Collection, Iterable, Sequence
from uuid import UUID

from app.core.ports import Refusal, WriteFailure
from app.core.stores.postgres.connection import Connection
from app.core.stores.postgres.tenant_guard import only_bot
from app.schemas.queries import SQL
from app.schemas.rows import WriteRow
from app.utils.errors import ExternalIdsHeld


def _by_bot(writes: Iterable[WriteRow]) -> dict[UUID, dict[str, WriteRow]]:
    """The writes that have an external_id, by bot and external_id."""
    found: dict[UUID, dict[str, WriteRow]] = {}
    for write in writes:
        if write.document.external_id is not None:
            found.setdefault(write.bot_id, {})[write.document.external_id] = write
    return found


def check_not_gone(writes: Sequence[WriteRow], checked: Sequence[WriteRow | Refusal]) -> None:
    """Raises ExternalIdsHeld if a document was deleted since its external_id was looked up."""
    missing = [write for write, found in zip(writes, checked, strict=True) if found is WriteFailure.DOCUMENT_NOT_FOUND]
    if gone := _by_bot(missing):
        raise ExternalIdsHeld([(bot_id, external_id) for bot_id, ids in gone.items() for external_id in ids])


async def check_not_held(
    conn: Connection, writes: Sequence[WriteRow], begun: Collection[tuple[UUID, str | None]]
) -> None:
    """Raises ExternalIdsHeld if other sagas hold external ids of the writes that are not in ``begun``."""
    held: set[tuple[UUID, str]] = set()
    for bot_id, by_external_id in _by_bot(writes).items():
        wanted = [external_id for external_id in by_external_id if (bot_id, external_id) not in begun]
        held |= {(bot_id, row["external_id"]) for row in await conn.fetch(SQL["held_external_ids"], bot_id, wanted)}
    if held:
        raise ExternalIdsHeld(held)


async def check_unchanged(conn: Connection, writes: Sequence[WriteRow]) -> None:
    """Raises ExternalIdsHeld where a document was written or deleted since its external_id was looked up."""
    changed: set[tuple[UUID, str]] = set()
    for bot_id, by_external_id in _by_bot(writes).items():
        rows = await conn.fetch(SQL["documents_by_external_id"], bot_id, list(by_external_id))
        current = {row["external_id"]: (row["doc_id"], row["generation"]) for row in only_bot(rows, bot_id)}
        for external_id, write in by_external_id.items():
            replaced = write.previous_generation
            expected = None if replaced is None else (write.doc_id, replaced)
            if current.get(external_id) != expected:
                changed.add((bot_id, external_id))
    if changed:
        raise ExternalIdsHeld(changed)
