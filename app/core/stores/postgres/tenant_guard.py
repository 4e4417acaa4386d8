"""Defence in depth for tenant isolation: checks the owner of each row in Python.

The predicate of each statement comes first. A row that passes it and fails here is a fault of this server: the row is
treated as missing, logged and counted. docs/decisions/0009-defence-in-depth.md says why the check is in Python.
"""

import logging
from collections.abc import Sequence
from uuid import UUID

import asyncpg

from app.utils import metrics

log = logging.getLogger(__name__)


class TenantMismatch(Exception):
    """A statement has changed a row of another owner: its transaction must not commit."""


def only_account(rows: Sequence[asyncpg.Record], account: str | None) -> Sequence[asyncpg.Record]:
    """The rows with this account_name; all rows with None."""
    if account is None:
        return rows
    kept = [row for row in rows if row["account_name"] == account]
    _report(len(rows) - len(kept))
    return kept


def only_bot(rows: Sequence[asyncpg.Record], bot_id: UUID, *columns: str) -> Sequence[asyncpg.Record]:
    """The rows in which bot_id and all ``columns`` are this bot's id."""
    kept = [row for row in rows if row["bot_id"] == bot_id and all(row[column] == bot_id for column in columns)]
    _report(len(rows) - len(kept))
    return kept


def check_only_bot(rows: Sequence[asyncpg.Record], bot_id: UUID) -> None:
    """For rows that were changed. Raises TenantMismatch."""
    if len(only_bot(rows, bot_id)) < len(rows):
        raise TenantMismatch


def check_only_account(rows: Sequence[asyncpg.Record], account: str | None) -> None:
    """For rows that were changed. Raises TenantMismatch."""
    if len(only_account(rows, account)) < len(rows):
        raise TenantMismatch


def _report(foreign: int) -> None:
    if foreign:
        metrics.FOREIGN_ROWS.inc(foreign)
        log.error("%d rows of another account or bot were ignored: a statement returns too much", foreign)
