"""The embedding models of this server: the current one and, while bots are moved, the one before it."""

import asyncio
from collections.abc import Iterator

from app.core.embedding.port import Embedder
from app.schemas.rows import Bot
from app.utils.errors import ModelMismatch


class EmbedderRegistry:
    """``current`` (EMBEDDING_MODEL) embeds for new bots, ``previous`` (EMBEDDING_PREVIOUS_MODEL) for its own bots."""

    def __init__(self, current: Embedder, previous: Embedder | None = None) -> None:
        self.current = current
        self.previous = previous

    def __iter__(self) -> Iterator[Embedder]:
        yield self.current
        if self.previous is not None:
            yield self.previous

    @property
    def only(self) -> Embedder | None:
        """The embedder if there is one for all bots; None if it depends on the bot."""
        return self.current if self.previous is None else None

    def of(self, bot: Bot) -> Embedder:
        """The embedder that made the bot's vectors. Raises ModelMismatch if this server does not run it."""
        for embedder in self:
            if (bot.embedding_model, bot.dimension) == (embedder.model, embedder.dimension):
                return embedder
        runs = " and ".join(f"{embedder.model} ({embedder.dimension})" for embedder in self)
        raise ModelMismatch(
            f"The bot's vectors come from {bot.embedding_model} ({bot.dimension} dimensions); this server runs {runs}. "
            "Start it with EMBEDDING_MODEL and that model's own settings (name or folder, revision, document prompt) "
            "as they were for the bot; or name that model in EMBEDDING_PREVIOUS_MODEL, so that both are served, and "
            f"move the bot with: python -m app.cli reembed {bot.bot_id} --to this server's EMBEDDING_MODEL."
        )

    async def close(self) -> None:
        await asyncio.gather(*(embedder.close() for embedder in self))
