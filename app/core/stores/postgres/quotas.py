"""QuotaPort on PostgreSQL: ``account_quotas`` and ``bot_usage``; and what T1 and T2 ask of them."""

from collections.abc import Mapping, Sequence
from uuid import UUID

import asyncpg

from app.core.ports import Refusal
from app.core.stores.postgres.connection import Connection
from app.core.stores.postgres.database import Database
from app.core.stores.postgres.tenant_guard import only_account
from app.schemas.queries import SQL
from app.schemas.quotas import NO_QUOTA, Allowance, BotUsage, Quota, QuotaShortfall, Usage
from app.schemas.rows import WriteRow
from app.utils.errors import QuotaExceeded

Bots = Mapping[UUID, asyncpg.Record]
"""Rows of lock_bot_for_use, by bot_id."""


class QuotaStore:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def set(self, account: str, quota: Quota) -> None:
        async with self._db.transaction() as conn:
            await conn.execute(SQL["lock_account"], account)
            if quota == NO_QUOTA:
                await conn.execute(SQL["remove_quota"], account)
            else:
                await conn.execute(SQL["set_quota"], account, quota.bots, quota.documents, quota.chunks)

    async def get(self, account: str) -> Quota:
        rows = only_account(await self._db.fetch(SQL["quotas"], [account]), account)
        return _quotas(rows).get(account, NO_QUOTA)

    async def accounts(self) -> Sequence[str]:
        return [row["account_name"] for row in await self._db.fetch(SQL["accounts"])]

    async def usage(self, account: str) -> Sequence[BotUsage]:
        rows = only_account(await self._db.fetch(SQL["usage_by_bot"], account), account)
        return [BotUsage(row["bot_id"], row["documents"], row["chunks"]) for row in rows]

    async def count(self, bot_id: UUID) -> None:
        async with self._db.transaction() as conn:
            if not await conn.fetch(SQL["lock_bot_exclusively"], bot_id):
                return
            account = await conn.fetchval(SQL["account_of_bot"], bot_id)
            counted = bool(await conn.fetch(SQL["quotas"], [account]))
            await conn.execute(SQL["count_usage" if counted else "forget_usage"], bot_id)
            await conn.execute(SQL["set_counted"], bot_id, counted)


class Meter:
    """Counts what the writes of one transaction add to accounts that have a quota, and refuses those that do not fit.

    ``chunks``: of the documents that the writes replace, by bot_id and doc_id.
    """

    def __init__(self, allowance: Allowance, bots: Bots, chunks: Mapping[tuple[UUID, int | None], int]) -> None:
        self._allowance = allowance
        self._bots = bots
        self._chunks = chunks
        self._added: dict[UUID, tuple[int, int]] = {}

    def refusal(self, write: WriteRow) -> QuotaShortfall | None:
        bot = self._bots[write.bot_id]
        return self._allowance.shortfall(bot["account_name"], *self._growth(write)) if bot["is_counted"] else None

    def count(self, write: WriteRow) -> None:
        """The write takes place."""
        bot = self._bots[write.bot_id]
        if bot["is_counted"]:
            documents, chunks = self._growth(write)
            self._allowance.count(bot["account_name"], documents, chunks)
            before = self._added.get(write.bot_id, (0, 0))
            self._added[write.bot_id] = (before[0] + documents, before[1] + chunks)

    async def store(self, conn: Connection) -> None:
        """In the order of the bots, for all transactions."""
        for bot_id, (documents, chunks) in sorted(self._added.items()):
            if documents or chunks:
                await conn.execute(SQL["add_usage"], bot_id, documents, chunks)

    def _growth(self, write: WriteRow) -> tuple[int, int]:
        chunks = len(write.document.chunks)
        if write.previous_generation is None:
            return 1, chunks
        return 0, chunks - self._chunks.get((write.bot_id, write.doc_id), 0)


async def meter(conn: Connection, bots: Bots, writes: Sequence[WriteRow], *, lock: bool) -> Meter | None:
    """None if no bot is counted. With ``lock`` no other transaction adds to these accounts until the commit."""
    accounts = sorted({bot["account_name"] for bot in bots.values() if bot["is_counted"]})
    if not accounts:
        return None
    quotas = _quotas(await conn.fetch(SQL["lock_quotas" if lock else "quotas"], accounts))
    used = {row["account_name"]: _usage(row) for row in await conn.fetch(SQL["usage_of_accounts"], accounts)}
    replaced: dict[UUID, list[int]] = {}
    for write in writes:
        if write.previous_generation is not None and write.doc_id is not None and bots[write.bot_id]["is_counted"]:
            replaced.setdefault(write.bot_id, []).append(write.doc_id)
    chunks: dict[tuple[UUID, int | None], int] = {}
    for bot_id, doc_ids in replaced.items():
        # After the usage: a document that was deleted in between makes the writes seem larger, never smaller.
        rows = await conn.fetch(SQL["current_generations"], bot_id, doc_ids)
        chunks |= {(row["bot_id"], row["doc_id"]): row["chunk_count"] for row in rows}
    return Meter(Allowance(quotas, used), bots, chunks)


async def within(conn: Connection, bots: Bots, checked: Sequence[WriteRow | Refusal]) -> list[WriteRow | Refusal]:
    """With a refusal in place of each write that does not fit as things are. T2 decides."""
    found = await meter(conn, bots, [write for write in checked if isinstance(write, WriteRow)], lock=False)
    if found is None:
        return list(checked)
    fitting: list[WriteRow | Refusal] = []
    for write in checked:
        if isinstance(write, WriteRow) and (shortfall := found.refusal(write)):
            fitting.append(shortfall)
            continue
        if isinstance(write, WriteRow):
            found.count(write)
        fitting.append(write)
    return fitting


async def check_bot(conn: Connection, account: str) -> bool:
    """Whether a bot that this transaction has registered is counted. Raises QuotaExceeded: then roll it back."""
    await conn.execute(SQL["lock_account_shared"], account)
    quota = _quotas(await conn.fetch(SQL["lock_quotas"], [account])).get(account)
    if quota is None:
        return False
    rows = await conn.fetch(SQL["usage_of_accounts"], [account])
    bots = _usage(rows[0]).bots  # With the new one.
    if quota.bots is not None and bots > quota.bots:
        raise QuotaExceeded("bots", bots - 1, quota.bots, 1)
    return True


def _quotas(rows: Sequence[asyncpg.Record]) -> dict[str, Quota]:
    return {row["account_name"]: Quota(row["bots"], row["documents"], row["chunks"]) for row in rows}


def _usage(row: asyncpg.Record) -> Usage:
    return Usage(row["bots"], row["documents"], row["chunks"])
