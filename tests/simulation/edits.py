"""Requests of the simulated clients that change a part of a document, are conditional, or synchronize a bot."""

from collections.abc import Coroutine, Sequence
from random import Random
from typing import Any
from uuid import UUID

from msgspec.structs import replace

from app.core.transfer.sync import SyncEnd
from app.core.write.chunk_edits import ChunkEdit, DeleteChunk, InsertChunk, ReplaceChunk
from app.core.write.write import Outcome
from app.schemas.rows import Chunk, Document, NewChunk, NewDocument
from app.schemas.versions import ANY, DocumentVersion, Precondition
from app.utils.errors import Unavailable
from app.utils.stopwatch import Stopwatch
from tests.simulation.history import DocumentHistory, Session, Span, Version
from tests.simulation.process import Process
from tests.simulation.requests import Requests
from tests.simulation.world import Violation


class Recorded:
    """A ChunkEdit whose result becomes the texts of ``version``: the client does not know which chunks it changes."""

    def __init__(self, edit: ChunkEdit, version: Version) -> None:
        self._edit = edit
        self._version = version
        self.chunk_index = edit.chunk_index

    def apply(self, chunks: Sequence[NewChunk]) -> list[NewChunk]:
        new = self._edit.apply(chunks)
        self._version.texts[:] = [chunk.text for chunk in new]
        return new


class Edits(Requests):
    """Each method is one request of one client, or several of them, until its answer. It raises only Violation."""

    async def edit_chunk(self, bot: int, doc_id: int, random: Random, read: DocumentVersion | None = None) -> None:
        """``read``: the version that the document must still have."""
        document = self._history.documents[doc_id]
        self._texts += 1
        version, text = Version(Span(self.world.loop.time()), [], document.versions[0].kind), f"{self._texts}.0"
        index = random.randrange(2)
        edit = Recorded(
            random.choice((ReplaceChunk(index, text, None), InsertChunk(index, text, None), DeleteChunk(index))),
            version,
        )
        document.versions.append(version)

        def work(process: Process) -> Coroutine[Any, Any, list[Outcome]]:
            bot_id, account = self._bot_id(bot), self._account(bot)
            return process.ingest.edit_chunks(bot_id, account, doc_id, edit, Stopwatch(), None, _if_match(read))

        outcomes = await self._ask(version.span, f"edit {doc_id} {text} {bool(read)}", work, bot=bot)
        if not version.texts:
            version.span.outcome = "failed"
        if outcomes and read:
            self._history.modified.append((doc_id, read, outcomes[0].version))

    async def modify(self, bot: int, doc_id: int, random: Random) -> None:
        """Reads a document and changes or deletes it if it is still the same."""
        found: tuple[Document, list[Chunk], int | None] | None = await self._ask(
            Span(self.world.loop.time()),
            f"get {doc_id} to modify it",
            lambda process: process.documents.get(self._bot_id(bot), self._account(bot), doc_id, 0, 1000),
            bot=bot,
        )
        if found is None:
            return
        document, chunks, _ = found
        what = random.random()
        if what < 0.4:
            await self._put(bot, document, chunks)
        elif what < 0.6:
            await self._patch(bot, document)
        elif what < 0.95:
            await self.edit_chunk(bot, doc_id, random, document.version)
        else:
            await self._delete(bot, document)

    async def _put(self, bot: int, document: Document, chunks: Sequence[Chunk]) -> None:
        """Adds a chunk, and writes back all else that was read."""
        known = self._history.documents[document.doc_id]
        self._texts += 1
        texts = [*(chunk.text for chunk in chunks), f"{self._texts}.0"]
        version = Version(Span(self.world.loop.time()), texts, known.versions[0].kind)
        known.versions.append(version)
        new_chunks = [NewChunk(number, text) for number, text in enumerate(texts)]
        new = NewDocument(document.title, new_chunks, metadata=document.metadata)

        def work(process: Process) -> Coroutine[Any, Any, list[Outcome]]:
            bot_id, account, condition = self._bot_id(bot), self._account(bot), _if_match(document.version)
            return process.ingest.replace(bot_id, account, document.doc_id, new, Stopwatch(), None, condition)

        outcomes = await self._ask(version.span, f"put {document.doc_id} {texts} if unchanged", work, bot=bot)
        if outcomes:
            self._history.modified.append((document.doc_id, document.version, outcomes[0].version))

    async def _patch(self, bot: int, document: Document) -> None:
        known, span = self._history.documents[document.doc_id], Span(self.world.loop.time())
        value, condition = len(known.patches) + 1, _if_match(document.version)
        known.patches.append((span, value))
        version = await self._ask(
            span,
            f"patch {document.doc_id} {value} if unchanged",
            lambda process: process.documents.patch(
                self._bot_id(bot), None, document.doc_id, {}, {"patched": value}, precondition=condition
            ),
            bot=bot,
        )
        if version:
            self._history.modified.append((document.doc_id, document.version, version))

    async def _delete(self, bot: int, document: Document) -> None:
        span, condition = self._span(self._history.documents[document.doc_id].deletes), _if_match(document.version)
        deleted = await self._ask(
            span,
            f"delete {document.doc_id} if unchanged",
            lambda process: process.documents.delete(self._bot_id(bot), None, document.doc_id, condition),
            bot=bot,
        )
        if deleted is not None and self._history.lineage[document.doc_id][-1] != document.version:
            raise Violation(f"document {document.doc_id} was deleted in another version than was asked")

    async def create_only(self, bot: int, number: int) -> None:
        """Stores a document under an external id that no document must have."""
        external_id = f"external {number}"
        version, new = self._version(1, False, number)
        self._begin_upsert(bot, external_id, version)
        new = replace(new, external_id=external_id)

        def work(process: Process) -> Coroutine[Any, Any, list[Outcome]]:
            bot_id, account, absent = self._bot_id(bot), self._account(bot), Precondition(None, frozenset({ANY}))
            return process.ingest.insert(bot_id, account, new, Stopwatch(), None, "replace", absent)

        outcomes = await self._ask(version.span, f"create only {number} {version.texts}", work, bot=bot)
        if outcomes:
            if outcomes[0].result != "created":
                raise Violation(f"a request that only creates has {outcomes[0].result} document {outcomes[0].doc_id}")
            self._upserted(bot, external_id, version, outcomes[0])

    async def synchronize(self, bot: int, random: Random) -> None:
        """A session that has one document or none, and deletes the others that have an external id."""
        begun = Span(self.world.loop.time())
        bot_id, account = self._bot_id(bot), self._account(bot)
        session = await self._ask(
            begun, f"start sync of bot {bot}", lambda process: process.sync.start(bot_id, account), bot=bot
        )
        if session is None:
            return
        named = random.choice((0, 1, None))
        if named is not None and not await self._send_batch(bot, session, named):
            return
        kept = f"external {named}"
        missing = [
            (doc_id, self._span(document.deletes))
            for doc_id, document in self._history.documents.items()
            if document.bot == bot and document.external_id not in (None, kept)
        ]
        whole, outcomes, ended = Span(self.world.loop.time()), [], None
        ending = Session(bot, begun, whole, kept)
        self._history.sessions.append(ending)
        for _ in range(3):
            ended = await self._ask(
                whole,
                f"finish sync of bot {bot} without {[doc_id for doc_id, _ in missing]}",
                lambda process: process.sync.finish(bot_id, account, session, delete_missing=True),
                unknown=(Unavailable,),
                bot=bot,
            )
            outcomes.append(whole.outcome)
            if whole.outcome != "unknown":
                break
        whole.outcome = "done" if ended else "unknown" if "unknown" in outcomes else "failed"
        for doc_id, span in missing:
            span.end = whole.end
            span.outcome = self._deleted(doc_id, begun, ended) if whole.outcome == "done" else whole.outcome
        for span in ending.late:
            span.end = whole.end

    def _deleted(self, doc_id: int, begun: Span, ended: SyncEnd | None) -> Any:
        """Whether the end of the session must have deleted it: not what was stored since the session began."""
        stored = self._history.documents[doc_id].versions[0].span
        if ended is None or stored.start > begun.end:
            return "failed"
        return "done" if stored.done_before(begun.start) else "unknown"

    async def _send_batch(self, bot: int, session: UUID, number: int) -> bool:
        """Whether the session knows for certain that the client has this document."""
        external_id = f"external {number}"
        version, new = self._version(1, False, number)
        self._begin_upsert(bot, external_id, version)
        entries: list[Any] = [(self._bot_id(bot), replace(new, external_id=external_id))]
        outcomes: list[Outcome] | None = await self._ask(
            version.span,
            f"sync {number} {version.texts}",
            lambda process: process.sync.batch(self._bot_id(bot), self._account(bot), session, entries, Stopwatch()),
            unknown=(Unavailable,),
            bot=bot,
        )
        if not outcomes:
            return False
        if outcomes[0].error is None:
            self._upserted(bot, external_id, version, outcomes[0])
        else:
            version.span.outcome = "unknown" if isinstance(outcomes[0].error, Unavailable) else "failed"
        return True

    def _begin_upsert(self, bot: int, external_id: str, version: Version) -> None:
        self._history.unsure.append(version)
        self._history.upserts.setdefault((bot, external_id), []).append(version)

    def _upserted(self, bot: int, external_id: str, version: Version, outcome: Outcome) -> None:
        """The answer tells which document has this version."""
        history, doc_id = self._history, outcome.doc_id
        assert doc_id is not None
        history.unsure.remove(version)
        history.upserts[bot, external_id].remove(version)
        if outcome.result == "created":
            if doc_id in history.created:
                raise Violation(f"document {doc_id} was created twice")
            history.created.add(doc_id)
        history.doc_ids.add(doc_id)
        known = history.documents.setdefault(doc_id, DocumentHistory(bot, [], external_id=external_id))
        known.versions.append(version)
        for session in history.sessions:
            if session.may_have_deleted(bot, external_id, version.span):
                session.late.append(Span(session.finish.start, session.finish.end, "unknown"))
                known.deletes.append(session.late[-1])


def _if_match(version: DocumentVersion | None) -> Precondition | None:
    return None if version is None else Precondition(frozenset({version.etag}))
