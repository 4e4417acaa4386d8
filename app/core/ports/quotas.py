"""What core expects of the record about quotas of accounts and what accounts store."""

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from app.schemas.quotas import BotUsage, Quota


class QuotaPort(Protocol):
    """The quota of bots is kept by ``BotPort.insert``, those of documents and chunks by ``WritePort``. These two count
    only bots that are counted. A bot that is registered after its account's quota was set is."""

    async def set(self, account: str, quota: Quota) -> None:
        """Sets the account's quota. Without any limit the account has none."""

    async def get(self, account: str) -> Quota:
        """The account's quota; without any limit if it has none."""

    async def accounts(self) -> Sequence[str]:
        """All accounts that have a bot or a quota, in the order of their names."""

    async def usage(self, account: str) -> Sequence[BotUsage]:
        """What each of the account's bots stores, as far as it is counted."""

    async def count(self, bot_id: UUID) -> None:
        """From now on the bot is counted, beginning with what it stores at this moment, if its account has a quota;
        otherwise it is not. Writes to the bot wait meanwhile."""
