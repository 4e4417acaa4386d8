"""What core expects of the record about collections in Milvus's memory: last uses, and leases for load and release."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Literal, NamedTuple, Protocol
from uuid import UUID

from app.schemas.operation_rows import LoadState

Claim = Literal["granted", "load", "release"]
"""The caller has the lease, or another process does, to load or to release the collection."""


class Observed(NamedTuple):
    """``loaded``: how many collections of bots are. ``leaving``: those whose release is announced or running."""

    loaded: int
    leaving: frozenset[str]


class LoadPort(Protocol):
    """``collection_loads``: what was last known, for all servers. The truth is in Milvus."""

    async def claim_load(self, collection: str, token: UUID, lease: timedelta) -> Claim:
        """Takes the lease of the collection to load it, also from the same ``token``. It counts as a use."""

    async def announce_releases(self, bound: int, idle: timedelta, token: UUID, lease: timedelta) -> list[str]:
        """If more than ``bound`` collections are loaded, takes the leases of those whose last use is longest ago.

        None that is pinned, has a lease or was used within ``idle``. ``claim_load`` may take them until they are begun.
        """

    async def begin_release(self, collection: str, token: UUID, lease: timedelta, idle: timedelta) -> bool:
        """Whether the announced collection may be released now: it was neither claimed nor used within ``idle``, and
        no other release runs."""

    async def end(self, collection: str, token: UUID, *, loaded: bool | None) -> None:
        """Ends the lease, if ``token`` has it. ``loaded``: what the collection is now; None: as before."""

    async def observe(self, loaded: Sequence[str], uses: Mapping[str, float]) -> Observed:
        """Stores which collections Milvus has loaded, and how many seconds ago this process last used some of them.

        One that was loaded since the last call counts as used now. Collections of no bot are left out.
        """

    async def states(self, collections: Sequence[str]) -> dict[str, LoadState]:
        """By collection; those that were never used are missing."""
