"""The requests of the simulated clients, and what they record of them."""

import asyncio
from collections.abc import Coroutine
from typing import Any
from uuid import UUID

from msgspec.structs import replace

from app.core.bots.bots import NewBot
from app.core.search.query import Query
from app.core.write.idempotency import IdempotentRequest
from app.core.write.upsert import OnConflict
from app.schemas.filter_tree import And, Column, Condition, MetadataPath
from app.schemas.listing import Order
from app.schemas.rows import NewDocument
from app.utils.errors import DatabaseUnavailable, Unavailable
from app.utils.stopwatch import Stopwatch
from tests.simulation.history import Found, Read, Searched, Span, Version, Walk
from tests.simulation.process import Process
from tests.simulation.transfers import Transfers
from tests.simulation.world import Violation


def _among(doc_ids: list[int]) -> Condition:
    return Condition("in", Column("doc_id"), doc_ids)


EVERYTHING = 200
"""More chunks than a run has: a search with this limit must find all."""


class Clients(Transfers):
    """Each method is one request of one client, until its answer. It raises only Violation."""

    def upserts_now(self) -> bool:
        return self._keys and self._keeps.random() < 0.15

    async def create(self, bot: int) -> bool:
        known = self._history.bots[bot]
        span = self._span(known.creates)
        new = NewBot(known.bot_id, f"bot {bot}", self._collection(bot), self._account(bot))
        return await self._ask(span, f"create bot {bot}", lambda process: process.bots.create(new)) is not None

    async def delete_bot(self, bot: int) -> bool:
        known = self._history.bots[bot]
        span = self._span(known.deletes)

        async def work(process: Process) -> bool:
            await process.bots.delete(known.bot_id, self._account(bot))
            return True

        # Once the bot is marked as deleted, an error means that recovery does the rest.
        return bool(await self._ask(span, f"delete bot {bot}", work, unknown=(Unavailable,), bot=bot))

    async def insert(self, bot: int, chunks: int, *, bad: bool = False) -> int | None:
        version, new = self._version(chunks, bad)
        self._history.unsure.append(version)
        if self._keys and self._texts % 3 == 0:
            doc_id = await self._insert_until_answered(bot, version, new)
        else:
            doc_id = await self._insert(bot, version, version.span, new, None)
        if doc_id is not None:
            self._known(bot, doc_id, version)
        return doc_id

    async def _insert(
        self, bot: int, version: Version, span: Span, new: NewDocument, once: IdempotentRequest | None
    ) -> int | None:
        outcomes = await self._ask(
            span,
            f"insert {version.texts}",
            lambda process: process.ingest.insert(self._bot_id(bot), self._account(bot), new, Stopwatch(), once),
            bot=bot,
        )
        if outcomes is None:
            return None
        return outcomes[0].doc_id if once is None or once.answer is None else int(once.answer)

    async def _insert_until_answered(self, bot: int, version: Version, new: NewDocument) -> int | None:
        """Repeats the request with its Idempotency-Key, after the one before or at the same time."""
        answers: set[int] = set()
        spans: list[Span] = []

        async def attempt() -> None:
            spans.append(span := Span(self.world.loop.time()))
            once = IdempotentRequest(version.texts[0], b"", lambda outcomes: str(outcomes[0].doc_id).encode())
            doc_id = await self._insert(bot, version, span, new, once)
            if doc_id is not None:
                answers.add(doc_id)

        for _ in range(4):
            await asyncio.gather(*(attempt() for _ in range(self._random.choice((1, 1, 2)))))
            if answers and self._random.random() < 0.5:
                break
            await asyncio.sleep(self._random.random() * 3)
        outcomes = {span.outcome for span in spans}
        version.span.outcome = next(outcome for outcome in ("done", "unknown", "failed") if outcome in outcomes)
        version.span.end = self.world.loop.time()
        if len(answers) > 1:
            raise Violation(f"one idempotency key, several answers: {answers}")
        return answers.pop() if answers else None

    async def insert_many(self, bots: list[int], chunks: int, bad: set[int]) -> None:
        made = [self._version(chunks, number in bad) for number in range(len(bots))]
        span = Span(self.world.loop.time())
        for version, _ in made:
            self._history.unsure.append(version)
            version.span = span
        documents = [(self._bot_id(bot), new) for bot, (_, new) in zip(bots, made, strict=True)]
        outcomes = await self._ask(
            span,
            f"insert many {[version.texts for version, _ in made]}",
            lambda process: process.ingest.insert_many(None, documents, Stopwatch()),
        )
        for bot, (version, _), outcome in zip(bots, made, outcomes or (), strict=False):
            version.span = Span(span.start, span.end, span.outcome)
            if outcome.error is None:
                self._known(bot, outcome.doc_id, version)
            else:
                version.span.outcome = "unknown" if isinstance(outcome.error, DatabaseUnavailable) else "failed"

    async def upsert(self, bot: int) -> None:
        """Inserts a document under one of few external ids."""
        number = self._keeps.randrange(2)
        external_id = f"external {number}"
        on_conflict: OnConflict = self._keeps.choice(("replace", "replace", "replace_if_changed", "skip", "error"))
        version, new = self._version(self._keeps.randint(1, 3), False, number)
        new = replace(new, external_id=external_id)
        self._begin_upsert(bot, external_id, version)

        def work(process: Process) -> Coroutine[Any, Any, Any]:
            bot_id, account = self._bot_id(bot), self._account(bot)
            return process.ingest.insert(bot_id, account, new, Stopwatch(), None, on_conflict)

        outcomes = await self._ask(version.span, f"upsert {on_conflict} {number} {version.texts}", work, bot=bot)
        if outcomes is None:
            return
        result = outcomes[0].result
        if result == "unchanged":
            raise Violation(f"{version.texts} were new, and the answer was that nothing changed")
        if result == "skipped":
            version.span.outcome = "failed"
            return
        self._upserted(bot, external_id, version, outcomes[0])

    async def replace(self, bot: int, doc_id: int, chunks: int) -> None:
        document = self._history.documents[doc_id]
        kept = [text for text in document.versions[-1].texts if self._keeps.random() < 0.5] if self._keys else []
        version, new = self._version(chunks, False, document.versions[0].kind, kept)
        document.versions.append(version)
        await self._ask(
            version.span,
            f"replace {doc_id} {version.texts}",
            lambda process: process.ingest.replace(self._bot_id(bot), self._account(bot), doc_id, new, Stopwatch()),
            bot=bot,
        )

    async def patch(self, bot: int, doc_id: int) -> None:
        document = self._history.documents[doc_id]
        span, value = Span(self.world.loop.time()), len(document.patches) + 1
        document.patches.append((span, value))
        await self._ask(
            span,
            f"patch {doc_id} {value}",
            lambda process: process.documents.patch(self._bot_id(bot), None, doc_id, {}, {"patched": value}),
            bot=bot,
        )

    async def delete(self, bot: int, doc_ids: list[int]) -> None:
        spans = [self._span(self._history.documents[doc_id].deletes) for doc_id in doc_ids]
        whole = Span(self.world.loop.time())
        deleted = await self._ask(
            whole,
            f"delete {doc_ids}",
            lambda process: process.documents.delete_many(self._bot_id(bot), None, doc_ids),
            bot=bot,
        )
        self._end(zip(doc_ids, spans, strict=True), whole, set(deleted or ()))

    async def delete_matching(self, bot: int, doc_ids: list[int], kind: int) -> None:
        """Deletes those of the documents that have this kind, by a filter."""
        matching = [doc_id for doc_id in doc_ids if self._history.documents[doc_id].versions[0].kind == kind]
        spans = [self._span(self._history.documents[doc_id].deletes) for doc_id in matching]
        where = And((_among(doc_ids), Condition("eq", MetadataPath(("kind",)), kind)))
        whole = Span(self.world.loop.time())
        answer = await self._ask(
            whole,
            f"delete matching {matching}",
            lambda process: process.by_filter.delete(self._bot_id(bot), None, where, EVERYTHING),
            unknown=(Unavailable,),  # Some parts may have been done.
            bot=bot,
        )
        self._end(zip(matching, spans, strict=True), whole, set() if answer is None else set(answer.chunks))

    async def patch_matching(self, bot: int, doc_ids: list[int]) -> None:
        """Patches the documents by a filter on what the PATCH changes."""
        self._patches += 1
        value = 1000 + self._patches
        spans = [Span(self.world.loop.time()) for _ in doc_ids]
        for doc_id, span in zip(doc_ids, spans, strict=True):
            self._history.documents[doc_id].patches.append((span, value))
        where = And((_among(doc_ids), Condition("ne", MetadataPath(("patched",)), value)))
        whole = Span(self.world.loop.time())
        answer = await self._ask(
            whole,
            f"patch matching {doc_ids} {value}",
            lambda process: process.by_filter.patch(self._bot_id(bot), None, where, {}, {"patched": value}, EVERYTHING),
            unknown=(Unavailable,),
            bot=bot,
        )
        self._end(zip(doc_ids, spans, strict=True), whole, set() if answer is None else set(answer.changed))

    async def walk(self, bot: int, order: Order) -> None:
        """Reads all documents in pages. After several pages without an answer the client gives up."""
        whole, doc_ids, after = Span(self.world.loop.time()), list[int](), None
        failures = 0
        while failures < 5:
            page = await self._ask(
                Span(self.world.loop.time()),
                f"page of bot {bot} after {after}",
                lambda process, after=after: process.listing.page(  # type: ignore[misc]
                    self._bot_id(bot), self._account(bot), None, order, after, 2
                ),
                bot=bot,
            )
            if page is None:
                failures += 1
                continue
            doc_ids += [document.doc_id for document in page.documents]
            after = page.next
            if after is None:
                whole.end, whole.outcome = self.world.loop.time(), "done"
                self._history.walks.append(Walk(whole, bot, doc_ids))
                return

    async def get(self, bot: int, doc_id: int) -> None:
        span = Span(self.world.loop.time())
        found = await self._ask(
            span,
            f"get {doc_id}",
            lambda process: process.documents.get(self._bot_id(bot), self._account(bot), doc_id, 0, 1000),
            missing=True,
            bot=bot,
        )
        if span.outcome == "done":
            self._history.reads.append(Read(span, bot, doc_id, None))
        if found is not None:
            document, chunks, _ = found
            read = self._history.reads[-1]
            read.texts, read.patched = [chunk.text for chunk in chunks], document.metadata.get("patched")

    async def search(self, bot: int, limit: int, kind: int | None) -> None:
        span = Span(self.world.loop.time())
        where = None if kind is None else Condition("eq", MetadataPath(("kind",)), kind)
        text = f"query {self._random.randrange(20)}"
        query = Query(self._bot_id(bot), self._account(bot), [text], limit, where=where)
        answer = await self._ask(
            span, f"search bot {bot} {limit} {kind}", lambda process: process.search.query(query, Stopwatch()), bot=bot
        )
        if answer is not None:
            (results,) = answer.results
            found = [
                Found(r.chunk.chunk_id, r.chunk.doc_id, r.chunk.text, r.score, r.chunk.metadata["kind"])
                for r in results
            ]
            lacking = self._history.may_lack_vectors
            self._history.searches.append(Searched(span, bot, found, limit, kind, text, lacking))

    async def warm(self, bot: int) -> None:
        bot_id, account = self._bot_id(bot), self._account(bot)
        span = Span(self.world.loop.time())
        await self._ask(span, f"warm bot {bot}", lambda process: process.bots.warm(bot_id, account), bot=bot)

    async def trespass(self, bot: int) -> None:
        """Searches with another account, for which the bot does not exist."""
        span = Span(self.world.loop.time())
        query = Query(self._bot_id(bot), "another account", ["query"], 5)
        if await self._ask(span, "trespass", lambda process: process.search.query(query, Stopwatch())) is not None:
            raise Violation(f"bot {bot} answered another account")

    async def repair(self) -> None:
        """Repairs all bots, as ``cli repair`` does."""
        process = self.world.live()
        for bot in self._history.bots:

            async def work(bot_id: UUID = bot.bot_id) -> None:
                async for finding in process.repairer.repair_bot(bot_id):
                    self.world.note(process.name, "repaired", finding.kind, finding.detail)

            await process.request(work())

    async def check(self) -> None:
        """Runs verify while clients go on."""
        span = Span(self.world.loop.time())

        async def work(process: Process) -> list[Any]:
            found = [finding async for finding in process.verifier.check_all()]
            for bot in await process.verifier.bots():
                found += [finding async for finding in process.verifier.check_bot(bot)]
            return found

        findings = await self._ask(span, "verify", work) or []
        # A saga may outlive its lease while processes are down. A process that was paused for longer than its lease and
        # the late-write window leaves vectors without a row, until it finds that it has lost its lease.
        excused = {"saga_forgotten", "vector_orphan"} if self.world.ever_paused else {"saga_forgotten"}
        if self._history.may_lack_vectors:
            excused |= {"vector_orphan", "vector_lost", "collection_missing"}
        if self.world.loses or self.world.ever_restored:
            excused |= {"index_rebuilding", "collection_missing", "vector_lost"}
        if wrong := [finding for finding in findings if finding.kind not in excused]:
            raise Violation(f"verify reports what is not wrong: {wrong}")
