"""Quotas of accounts: what an account may store, what it stores, and which of several writes still fit."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple
from uuid import UUID

QuotaName = Literal["bots", "documents", "chunks"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What an account stores: its bots, the current documents of these and their chunks."""

    bots: int = 0
    documents: int = 0
    chunks: int = 0


@dataclass(frozen=True, slots=True)
class Quota:
    """The most that an account may store. None: no limit."""

    bots: int | None = None
    documents: int | None = None
    chunks: int | None = None


NO_QUOTA = Quota()


@dataclass(frozen=True, slots=True)
class BotUsage:
    """What a bot stores, by its counters; None while it is not counted: its account has no quota."""

    bot_id: UUID
    documents: int | None
    chunks: int | None


@dataclass(frozen=True, slots=True)
class AccountUsage:
    account_name: str
    used: Usage
    quota: Quota


class QuotaShortfall(NamedTuple):
    """Why a write was refused: the account has ``used`` of ``limit``, and the write needs ``wanted`` more."""

    quota: QuotaName
    used: int
    limit: int
    wanted: int


class Allowance:
    """What accounts with a quota may still store, write by write within one transaction."""

    def __init__(self, quotas: Mapping[str, Quota], used: Mapping[str, Usage]) -> None:
        self._quotas = quotas
        self._used = {account: (usage.documents, usage.chunks) for account, usage in used.items()}

    def shortfall(self, account: str, documents: int, chunks: int) -> QuotaShortfall | None:
        """Why the account may not store that many documents and chunks more; None if it may.

        A number that does not grow is never refused, so that an account above its quota can become smaller.
        """
        quota = self._quotas.get(account, NO_QUOTA)
        used = self._used.get(account, (0, 0))
        if documents > 0 and quota.documents is not None and used[0] + documents > quota.documents:
            return QuotaShortfall("documents", used[0], quota.documents, documents)
        if chunks > 0 and quota.chunks is not None and used[1] + chunks > quota.chunks:
            return QuotaShortfall("chunks", used[1], quota.chunks, chunks)
        return None

    def count(self, account: str, documents: int, chunks: int) -> None:
        """The account stores so many more."""
        used = self._used.get(account, (0, 0))
        self._used[account] = (used[0] + documents, used[1] + chunks)
