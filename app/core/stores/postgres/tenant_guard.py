"""The second wall between accounts: rows say whose they are, and that is compared with what was asked for.

The first wall is the predicate of each statement. A row that passes it and fails here is a fault of ours: it is treated
as if it were not there, logged and counted. docs/decisions/0009-second-wall.md says why it stands here.
"""

import logging
from collections.abc import Sequence
from uuid import UUID

import asyncpg

from app.utils import metrics

log = logging.getLogger(__name__)


class TenantMismatch(Exception):
    """A statement has changed a row that is somebody else's: its transaction must not commit."""


def only_account(rows: Sequence[asyncpg.Record], account: str | None) -> Sequence[asyncpg.Record]:
    """The rows whose account_name is ``account``; all with None."""
    if account is None:
        return rows
    kept = [row for row in rows if row["account_name"] == account]
    _tell(len(rows) - len(kept))
    return kept


def only_bot(rows: Sequence[asyncpg.Record], bot_id: UUID, *columns: str) -> Sequence[asyncpg.Record]:
    """The rows of which bot_id, and all ``columns``, are this bot."""
    kept = [row for row in rows if row["bot_id"] == bot_id and all(row[column] == bot_id for column in columns)]
    _tell(len(rows) - len(kept))
    return kept


def check_only_bot(rows: Sequence[asyncpg.Record], bot_id: UUID) -> None:
    """For rows that were changed. Raises ForeignRow."""
    if len(only_bot(rows, bot_id)) < len(rows):
        raise TenantMismatch


def _tell(foreign: int) -> None:
    if foreign:
        metrics.FOREIGN_ROWS.inc(foreign)
        log.error("%d rows of another account or bot were kept back: a statement asks for too much", foreign)
