"""GenerationPort on PostgreSQL: ``installation`` and ``generation_blocks``."""

from collections.abc import Sequence
from uuid import UUID

import asyncpg

from app.core.stores.postgres.connection import Connection
from app.core.stores.postgres.database import Database
from app.schemas.operation_rows import GenerationBlock, GenerationState
from app.schemas.queries import SQL
from app.utils.errors import DatabaseRightsMissing


class GenerationStore:
    """``folder``: the identity of an embedded PostgreSQL's data directory."""

    def __init__(self, db: Database, folder: str = "") -> None:
        self._db = db
        self._folder = folder
        self._can_identify = True

    async def state(self) -> GenerationState:
        system = ""
        # Every role may call this function unless that was revoked. Without it the name alone tells databases apart.
        if self._can_identify:
            try:
                row = await self._db.fetchrow(SQL["system_identifier"])
                system = row["system_identifier"] if row else ""
            except (DatabaseRightsMissing, asyncpg.UndefinedFunctionError):
                self._can_identify = False  # Each refusal is an error in the log.
        await self._db.execute(SQL["make_installation"])
        async with self._db.snapshot() as conn:
            row = await conn.fetchrow(SQL["generation_state"])
            blocks = await conn.fetch(SQL["generation_blocks"])
        assert row is not None
        return GenerationState(
            installation_id=row["installation_id"],
            database="/".join(part for part in (system, row["database"], self._folder) if part),
            usable=row["usable"],
            first=row["first_generation"],
            last=row["last_generation"],
            newest=row["newest_generation"],
            blocks=[GenerationBlock(*block) for block in blocks],
        )

    async def known_collections(self) -> set[str]:
        return {row["collection_name"] for row in await self._db.fetch(SQL["known_collections"])}

    async def use(self, block: GenerationBlock, older: Sequence[GenerationBlock] = ()) -> None:
        async with self._db.transaction() as conn:
            await conn.execute(SQL["make_installation"])
            row = await conn.fetchrow(SQL["lock_installation"])
            assert row is not None
            if row["usable"] and row["last_generation"] >= block.first:
                return
            follows = row["usable"] and row["last_generation"] + 1 == block.first
            first = row["first_generation"] if follows else block.first
            await self._use(conn, first, block, older, None)

    async def take_over(
        self,
        block: GenerationBlock,
        installation_id: UUID,
        abandon: Sequence[str],
        kept: Sequence[GenerationBlock],
    ) -> int:
        async with self._db.transaction() as conn:
            await conn.fetchrow(SQL["lock_installation"])
            await self._use(conn, block.first, block, (), installation_id)
            ranges = [kept_block.first for kept_block in kept], [kept_block.last for kept_block in kept]
            return len(await conn.fetch(SQL["abandon_collections"], *ranges, list(abandon)))

    @staticmethod
    async def _use(
        conn: Connection,
        first: int,
        block: GenerationBlock,
        older: Sequence[GenerationBlock],
        installation_id: UUID | None,
    ) -> None:
        blocks = [*older, block]
        await conn.execute(
            SQL["add_generation_blocks"],
            [one.block_id for one in blocks],
            [one.first for one in blocks],
            [one.last for one in blocks],
        )
        await conn.execute(SQL["doubt_counts"], first)
        await conn.execute(SQL["jump_to_generation"], first)
        await conn.execute(SQL["use_generation_block"], first, block.last, installation_id)
