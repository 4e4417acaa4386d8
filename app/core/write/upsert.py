"""Inserts of documents with an ``external_id``: which are new, which replace one, and which change nothing.

This is decided before T1, from what is stored, and T1 confirms it: ``WritePort.begin``. Where T1 finds something else,
or another write holds an external_id, nothing was begun, and it is decided again.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from random import Random
from typing import Final, Literal
from uuid import UUID

import orjson

from app.core.ports import DocumentPort
from app.core.write.carrying import same_texts, text_sha256
from app.core.write.write import Outcome, Write
from app.schemas.rows import CHUNKS_PER_GENERATION, Bot, ExternalIdState, NewDocument, StoredDocument
from app.schemas.versions import Precondition
from app.utils.errors import AppError, ErrorLocation, ExternalIdInFlight, ExternalIdTaken, InvalidInput

OnConflict = Literal["error", "replace", "skip", "replace_if_changed"]
"""What an insert does when the bot has a document with this external_id."""
Entry = tuple[UUID, NewDocument] | AppError
ExternalId = tuple[UUID, str]
"""bot_id and external_id."""

FIRST_PAUSE: Final = 0.02
LONGEST_PAUSE: Final = 0.2
"""Seconds between two looks at an external_id that another write holds; each pause is longer and partly random."""
REPEATED: Final = "is the external_id of an earlier document of this batch"
NEEDS_EXTERNAL_ID: Final = "needs an external_id, by which the stored document is found"


class Pauses:
    """Waits for other writes, for at most ``patience`` seconds in all."""

    def __init__(self, patience: float, random: Random) -> None:
        self._until = asyncio.get_running_loop().time() + patience
        self._next = FIRST_PAUSE
        self._random = random

    @property
    def over(self) -> bool:
        return asyncio.get_running_loop().time() >= self._until

    async def wait(self) -> None:
        await asyncio.sleep(self._next * (0.5 + self._random.random()))
        self._next = min(LONGEST_PAUSE, 1.5 * self._next)


class Upsert:
    """Plans the inserts of one request. ``on_conflict``: for every document of it that has an external_id. ``single``:
    the request is no batch. ``unnamed``: a document without one is new, whatever ``on_conflict`` is. ``precondition``:
    on each stored document that would be replaced, and on its absence."""

    def __init__(
        self,
        store: DocumentPort,
        on_conflict: OnConflict,
        *,
        single: bool = False,
        unnamed: bool = False,
        precondition: Precondition | None = None,
    ) -> None:
        self._store = store
        self._unnamed = unnamed
        self.single = single
        self._on_conflict = on_conflict
        self._precondition = precondition

    def concerns(self, documents: Sequence[Entry]) -> bool:
        """Whether any of them has to be looked up by its external_id, or should have one."""
        return self._on_conflict != "error" or any(isinstance(one, tuple) and one[1].external_id for one in documents)

    async def plan(
        self, bots: Mapping[UUID, Bot | AppError], documents: Sequence[Entry], waited: bool, given_up: set[ExternalId]
    ) -> list[Outcome | Write] | None:
        """What is to be written, and the outcome of every other document, in the order of ``documents``.

        None while other writes hold some of the external ids. If ``waited`` is true, these documents fail instead, and
        so do those in ``given_up``.
        """
        states = await self._states(bots, documents)
        held = {key for key, state in states.items() if state.held}
        if held and not waited:
            return None
        stored = await self._stored(states)
        seen: set[ExternalId] = set()
        slots: list[Outcome | Write] = []
        for number, entry in enumerate(documents):
            try:
                slots.append(self._planned(bots, entry, number, stored, states, seen, held | given_up))
            except AppError as error:
                slots.append(Outcome(None, error))
        return slots

    async def _states(
        self, bots: Mapping[UUID, Bot | AppError], documents: Sequence[Entry]
    ) -> dict[ExternalId, ExternalIdState]:
        wanted: dict[UUID, dict[str, None]] = {}
        for entry in documents:
            if isinstance(entry, tuple) and entry[1].external_id and isinstance(bots[entry[0]], Bot):
                wanted.setdefault(entry[0], {})[entry[1].external_id] = None
        found: dict[ExternalId, ExternalIdState] = {}
        for bot_id, names in wanted.items():
            states = await self._store.external_ids(bot_id, list(names))
            found |= {(bot_id, name): state for name, state in states.items()}
        return found

    async def _stored(self, states: Mapping[ExternalId, ExternalIdState]) -> dict[int, StoredDocument]:
        """The documents that may be replaced, by doc_id."""
        if self._on_conflict not in ("replace", "replace_if_changed"):
            return {}
        doc_ids: dict[UUID, list[int]] = {}
        for (bot_id, _), state in states.items():
            if state.doc_id is not None:
                doc_ids.setdefault(bot_id, []).append(state.doc_id)
        return {
            found.document.doc_id: found
            for bot_id, of_bot in doc_ids.items()
            for found in await self._store.stored(bot_id, of_bot)
        }

    def _planned(
        self,
        bots: Mapping[UUID, Bot | AppError],
        entry: Entry,
        number: int,
        stored: Mapping[int, StoredDocument],
        states: Mapping[ExternalId, ExternalIdState],
        seen: set[ExternalId],
        held: Collection[ExternalId],
    ) -> Outcome | Write:
        """Raises the error because of which this document is not written."""
        if isinstance(entry, AppError):
            raise entry
        bot_id, document = entry
        bot, external_id = bots[bot_id], document.external_id
        if isinstance(bot, AppError):
            raise bot
        if external_id is None:
            if self._on_conflict != "error" and not self._unnamed:
                raise self._invalid(number, NEEDS_EXTERNAL_ID)
            return Write(bot, document)
        key = (bot_id, external_id)
        if key in seen:
            raise self._invalid(number, REPEATED)
        seen.add(key)
        if key in held:
            raise ExternalIdInFlight("Another request is writing a document with this external_id.")
        doc_id = states[key].doc_id
        if doc_id is None:
            if self._precondition:  # T1 confirms that there is none, and the saga keeps others from making one.
                self._precondition.check(None)
            return Write(bot, document)
        if self._on_conflict == "error":
            raise ExternalIdTaken(f"Document {doc_id} of this bot has this external_id.")
        if self._on_conflict == "skip":
            return Outcome(doc_id, result="skipped")
        found = stored.get(doc_id)
        if found and self._on_conflict == "replace_if_changed" and is_same(found, document):
            return Outcome(doc_id, result="unchanged", version=found.document.version)
        if found and self._precondition:
            self._precondition.check(found.document.version)
        stored_vectors = same_texts(bot.milvus_collection, found, document)
        return Write(bot, document, doc_id, stored=stored_vectors, precondition=self._precondition)

    def _invalid(self, number: int, reason: str) -> InvalidInput:
        location = f"{'body' if self.single else f'body.documents.{number}'}.document.external_id"
        return InvalidInput(f"{location}: {reason}", locations=[ErrorLocation(location, reason)])


def is_same(stored: StoredDocument, document: NewDocument) -> bool:
    """Whether the stored document has everything that the new one has, and nothing else."""
    old = stored.document
    if (old.title, old.file_path, old.file_type, old.author) != (
        document.title,
        document.file_path,
        document.file_type,
        document.author,
    ) or old.tags != list(document.tags):
        return False
    if len(stored.chunks) != len(document.chunks) or _json(old.metadata) != _json(document.metadata):
        return False
    return all(
        (one.chunk_id % CHUNKS_PER_GENERATION, one.page_number, one.text_sha256)
        == (new.chunk_index, new.page_number, text_sha256(new.text))
        for one, new in zip(stored.chunks, document.chunks, strict=True)
    )


def _json(value: object) -> bytes:
    """Equal for equal JSON: in Python 1, 1.0 and True are equal."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
