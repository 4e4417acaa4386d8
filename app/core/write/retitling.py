"""Writes the words of documents again whose title was changed, where titles are in the lexical field.

PostgreSQL has the new title already. The chunks are written under a new generation, by the saga: an upsert under the
old keys could be undone by a late write. What a saga writes has the title that the document had when its chunks were
read. A later PATCH of the title writes the chunks again after it.
"""

from collections.abc import Sequence
from uuid import UUID

from app.core.bots.bots import Bots
from app.core.ports import DocumentPort
from app.core.write.chunk_edits import rewrite
from app.core.write.saga import Saga
from app.schemas.versions import DocumentVersion
from app.utils.errors import BotNotFound, DocumentChanged, DocumentNotFound, Unavailable
from app.utils.stopwatch import Stopwatch

MAX_ATTEMPTS = 5
"""Attempts while others replace the same documents."""


class Retitling:
    def __init__(self, bots: Bots, documents: DocumentPort, saga: Saga) -> None:
        self._bots = bots
        self._documents = documents
        self._saga = saga

    async def write_words(self, bot_id: UUID, doc_ids: Sequence[int]) -> dict[DocumentVersion, DocumentVersion]:
        """Writes the chunks of these documents again, one document after the other; those that are gone are skipped.

        Returns the new version by the one that it follows, for each document that was written. Raises Unavailable when
        a store or the embedder does not answer: the titles are changed, and the words not. A repeated call writes them.
        """
        versions: dict[DocumentVersion, DocumentVersion] = {}
        for doc_id in doc_ids:
            for _ in range(MAX_ATTEMPTS):
                if await self._write_again(bot_id, doc_id, versions):
                    break
            else:
                raise Unavailable("The title was changed, but others replace the document: repeat the call.")
        return versions

    async def _write_again(self, bot_id: UUID, doc_id: int, versions: dict[DocumentVersion, DocumentVersion]) -> bool:
        """False if the document was replaced meanwhile."""
        bot = await self._bots.get(bot_id, None)
        # Beside a migration that turns titles on: this row was read after the title was changed, so the migration reads
        # the new title, or copies the new generation.
        if not (bot.title_in_lexical or bot.next_title_in_lexical):
            return True
        found = await self._documents.get(bot_id, doc_id)
        if found is None or not found[1] or not await self._bots.supports_lexical(bot):
            return True
        write = rewrite(bot, *found)
        await self._saga.run([write], Stopwatch())
        if isinstance(write.error, DocumentChanged):
            return False
        if write.error is not None and not isinstance(write.error, DocumentNotFound | BotNotFound):
            raise write.error
        if write.replaced and write.version:
            versions[write.replaced.version] = write.version
        return True
