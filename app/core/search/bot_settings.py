"""Changes a bot's row, after checking that its searches can use the new defaults."""

from uuid import UUID

from app.core.bots.bots import Bots
from app.core.search.relevance import Relevance, not_calibrated
from app.schemas.rows import Bot, BotChanges


class BotSettings:
    def __init__(self, bots: Bots, relevance: Relevance) -> None:
        self._bots = bots
        self._relevance = relevance

    async def update(self, bot_id: UUID, account: str | None, changes: BotChanges) -> Bot:
        """Changes columns of the bot's row; the bot as it is then.

        Raises BotNotFound, UnsupportedMode for a mode that its collection cannot serve, and NotCalibrated for a
        minimum of a confidence that its results do not have.
        """
        if changes.get("default_min_confidence") is not None:
            bot = await self._bots.usable(bot_id, account)
            if not await self._relevance.is_calibrated(bot):
                raise not_calibrated(bot)
        return await self._bots.update(bot_id, account, changes)
