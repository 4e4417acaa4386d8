"""Quotas of accounts, and what accounts store."""

from collections.abc import Sequence

from app.core.ports import BotPort, QuotaPort
from app.schemas.quotas import NO_QUOTA, AccountUsage, Quota, Usage


class Quotas:
    """All methods raise DatabaseUnavailable."""

    def __init__(self, store: QuotaPort, bots: BotPort) -> None:
        self._store = store
        self._bots = bots

    async def set(self, account: str, quota: Quota, *, recount: bool = False) -> AccountUsage:
        """Sets the account's quota, in place of the one before. It holds for every write that begins afterwards.

        The first quota counts the account's bots one after the other, and each one's writes wait meanwhile. A call that
        was cut off is repeated; it goes on where the other one ended. ``recount``: counts those that are counted, too.
        """
        await self._store.set(account, quota)
        for bot in await self._store.usage(account):
            if recount or (bot.documents is None) == (quota != NO_QUOTA):
                await self._store.count(bot.bot_id)
        return await self.usage(account)

    async def usage(self, account: str) -> AccountUsage:
        """What the account stores. Without a quota its documents are counted now, with one they are counted already."""
        quota = await self._store.get(account)
        bots = await self._store.usage(account)
        documents = chunks = 0
        for bot in bots:
            if bot.documents is None or bot.chunks is None:
                counts = await self._bots.counts(bot.bot_id)
                documents, chunks = documents + counts.documents, chunks + counts.chunks
            else:
                documents, chunks = documents + bot.documents, chunks + bot.chunks
        return AccountUsage(account, Usage(len(bots), documents, chunks), quota)

    async def all(self) -> Sequence[AccountUsage]:
        """The usage of each account that has a bot or a quota, in the order of their names."""
        return [await self.usage(account) for account in await self._store.accounts()]
