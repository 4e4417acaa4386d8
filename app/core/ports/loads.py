"""What core expects of the record about collections in Milvus's memory: last uses, and leases for load and release."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Literal, Protocol
from uuid import UUID

from app.schemas.operation_rows import LoadState

Claim = Literal["granted", "load", "release"]
"""The caller has the lease, or another process does, to load or to release the collection."""


class LoadPort(Protocol):
    """``collection_loads``: what was last known, for all servers. The truth is in Milvus."""

    async def claim_load(self, collection: str, token: UUID, lease: timedelta) -> Claim:
        """Takes the lease of the collection to load it, also from the same ``token``. It counts as a use."""

    async def claim_release(self, bound: int, idle: timedelta, token: UUID, lease: timedelta) -> str | None:
        """If more than ``bound`` collections are loaded, takes the lease of the one whose last use is longest ago.

        None if they are not, if each is pinned, has a lease or was used within ``idle``, or while another release runs.
        """

    async def end(self, collection: str, token: UUID, *, loaded: bool | None) -> None:
        """Ends the lease, if ``token`` has it. ``loaded``: what the collection is now; None: as before."""

    async def observe(self, loaded: Sequence[str], uses: Mapping[str, float]) -> int:
        """Stores which collections Milvus has loaded, and how many seconds ago this process last used some of them.

        One that was loaded since the last call counts as used now. Collections of no bot are left out. Returns how many
        collections of bots are loaded.
        """

    async def states(self, collections: Sequence[str]) -> dict[str, LoadState]:
        """By collection; those that were never used are missing."""
