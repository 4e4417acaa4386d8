"""Bots whose id follows from the request that creates them, so that a repeated request creates no second one."""

import json
from uuid import UUID, uuid5

from app.core.bots.bots import Bots, NewBot
from app.schemas.rows import Bot
from app.utils.errors import BotExists, CollectionNameTaken, Conflict

NAMESPACE = UUID("5a1f4e0c-8a53-4d0f-9d0a-6a2f5f0f7c11")
MAX_ATTEMPTS = 16


async def create_derived(bots: Bots, account: str, name: str, seed: str) -> Bot:
    """Registers the account's bot of this name and seed, or returns the one that an earlier call registered.

    If a bot with the derived id has another name by now, or is being deleted, the next id is taken: every call tries
    the same ids in the same order. Raises Conflict if none is free.
    """
    for attempt in range(MAX_ATTEMPTS):
        bot_id = uuid5(NAMESPACE, json.dumps([account, seed, attempt]))
        try:
            bot, _ = await bots.create(NewBot(bot_id, name, f"vs_{bot_id.hex}", account))
        except (BotExists, CollectionNameTaken):
            continue
        return bot
    raise Conflict("Too many bots were created from this request and renamed since. Use another name.")
