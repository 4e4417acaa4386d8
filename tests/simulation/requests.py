"""How a request of a simulated client is sent and recorded."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from random import Random
from typing import Any, TypeVar
from uuid import UUID

from app.schemas.rows import NewChunk, NewDocument
from app.utils.errors import AppError, BotNotFound, DatabaseUnavailable, DocumentNotFound
from tests.simulation.embedder import UNUSABLE
from tests.simulation.history import BotHistory, DocumentHistory, History, Span, Version
from tests.simulation.process import Process, ProcessDied
from tests.simulation.world import Violation, World

T = TypeVar("T")
ACCOUNTS = ("account 0", "account 1")


class Requests:
    """Sends requests to any process, and keeps the history of what clients know."""

    def __init__(self, world: World, bots: int, *, reuse_names: bool = False, keys: bool = True) -> None:
        self.world = world
        self._random = world.random
        self._keeps = Random(f"what seed {world.seed} keeps")  # Drawn separately, so that other draws do not change.
        self._history = world.history
        self._history.bots = [BotHistory(number, UUID(int=number + 1)) for number in range(bots)]
        self._texts = 0
        self._reuse_names = reuse_names
        self._keys = keys
        self._patches = 0

    def restart_history(self) -> None:
        """After a restore clients rely on what PostgreSQL holds now; everything else that they did may be lost."""
        world, now = self.world, self.world.loop.time()
        before = self._history
        history = self._history = world.history = History(
            events=before.events, doc_ids=before.doc_ids, may_lack_vectors=True
        )
        for bot in before.bots:
            row = world.tables.active(bot.bot_id)
            known = BotHistory(bot.number, bot.bot_id, names=bot.names + len(bot.deletes) + 1)
            history.bots.append(known)
            if row is None:
                continue
            known.names = int(row.collection_name.partition("_")[2] or 0)
            known.creates.append(Span(now, now, "done"))
            texts: dict[int, list[tuple[int, str]]] = {}
            for document, chunk in world.tables.current(bot.bot_id):
                texts.setdefault(document.doc_id, []).append((chunk.chunk_id, chunk.text))
            for doc_id, document in world.tables.partition(bot.bot_id).documents.items():
                span, metadata = Span(now, now, "done"), document.metadata
                version = Version(span, [text for _, text in sorted(texts[doc_id])], metadata["kind"])
                patches = [(span, metadata["patched"])] if "patched" in metadata else []
                external_id = document.external_id
                history.documents[doc_id] = DocumentHistory(
                    bot.number, [version], patches=patches, external_id=external_id
                )
                history.current[document.generation] = [now, float("inf")]
        world.observe_versions()
        shown = {text for document in history.documents.values() for text in document.versions[0].texts}
        history.unsure = [version for version in before.unsure if shown.isdisjoint(version.texts)]

    def doc_ids(self, bot: int) -> list[int]:
        """Documents of the bot whose doc_id clients know."""
        return [doc_id for doc_id, document in self._history.documents.items() if document.bot == bot]

    @staticmethod
    def _end(spans: Iterable[tuple[int, Span]], whole: Span, done: set[int]) -> None:
        """Gives each document the outcome of the whole request; one that is not in ``done`` was deleted before."""
        for doc_id, span in spans:
            span.end, span.outcome = whole.end, whole.outcome
            if whole.outcome == "done" and doc_id not in done:
                span.outcome = "failed"

    async def _ask(
        self,
        span: Span,
        what: str,
        work: Callable[[Process], Coroutine[Any, Any, T]],
        *,
        unknown: tuple[type[Exception], ...] = (),
        missing: bool = False,
        bot: int | None = None,
    ) -> T | None:
        """Sends the request to any process. Returns its answer, or None; ``span.outcome`` says why there is none."""
        world, result = self.world, None
        process = world.live()
        world.note(process.name, "asked", what)
        cancel_after = world.random.random() * 0.3 if world.random.random() < world.faults.cancels else None
        try:
            result = await process.request(work(process), cancel_after)
            span.outcome = "done"
        except (ProcessDied, DatabaseUnavailable, *unknown):
            span.outcome = "unknown"
        except DocumentNotFound:
            span.outcome = "done" if missing else "failed"
        except BotNotFound:
            span.outcome = "failed"
            if bot is not None:
                self._history.bots[bot].unknown_to.append(span)
        except AppError:
            span.outcome = "failed"
        except asyncio.CancelledError:
            raise
        except Exception as exc:
            raise Violation(f"{what} ended in an internal error: {exc!r}") from exc
        finally:
            span.end = world.loop.time()
            world.note("client", span.outcome, what)
        return result

    def _span(self, spans: list[Span]) -> Span:
        spans.append(Span(self.world.loop.time()))
        return spans[-1]

    def _version(
        self, chunks: int, bad: bool, kind: int | None = None, kept: Sequence[str] = ()
    ) -> tuple[Version, NewDocument]:
        """``kept``: texts of an earlier version, which the new one has too."""
        self._texts += 1
        texts = [*kept, *(f"{self._texts}.{number}" for number in range(chunks))]
        if bad:
            texts[-1] += f" {UNUSABLE}"
        kind = self._random.randrange(2) if kind is None else kind
        step = self._random.choice((1, 3))
        new = NewDocument(
            f"{self._texts}",
            [NewChunk(number * step, text) for number, text in enumerate(texts)],
            metadata={"kind": kind},
        )
        return Version(Span(self.world.loop.time()), texts, kind), new

    def _known(self, bot: int, doc_id: int, version: Version) -> None:
        if doc_id in self._history.doc_ids:
            raise Violation(f"doc_id {doc_id} was given twice")
        self._history.doc_ids.add(doc_id)
        self._history.unsure.remove(version)
        self._history.documents[doc_id] = DocumentHistory(bot, [version])

    def _bot_id(self, bot: int) -> UUID:
        return self._history.bots[bot].bot_id

    def _collection(self, bot: int) -> str:
        """A bot that is created again has another collection name, or the same in a run that reuses names."""
        deleted = sum(span.outcome == "done" for span in self._history.bots[bot].deletes)
        return f"c{bot}" if self._reuse_names else f"c{bot}_{self._history.bots[bot].names + deleted}"

    def _account(self, bot: int) -> str:
        return ACCOUNTS[bot % 2]
