"""Checks the invariants of a run: 2, 3 and 4 on what clients saw, 1, 5, 7 and 8 on the stores at rest."""

from itertools import pairwise

import numpy as np

from app.schemas.rows import CHUNKS_PER_GENERATION
from tests.simulation.embedder import embedding
from tests.simulation.history import DocumentHistory, Found, History, Read, Searched, Span, Version, Walk
from tests.simulation.world import Violation, World

TOLERANCE = 1e-4
ByText = dict[str, tuple[DocumentHistory, list[Version]]]
"""The document of each text, and those of its versions that have it: a replacement may keep texts."""


def check_history(history: History) -> None:
    by_text: ByText = {}
    for document in history.documents.values():
        for version in document.versions:
            for text in version.texts:
                by_text.setdefault(text, (document, []))[1].append(version)
    unsure = {text: version for version in history.unsure for text in version.texts}
    for read in history.reads:
        _check_read(history, read)
    for search in history.searches:
        _check_shown(history, search, by_text, unsure)
        _check_complete(history, search, by_text)
    for walk in history.walks:
        _check_walk(history, walk)
    _check_versions(history)
    if history.exceeded:
        raise Violation(history.exceeded[0])
    for bot in history.bots:
        for span in bot.unknown_to:
            made = any(create.done_before(span.start) for create in bot.creates)
            if made and not any(delete.maybe_before(span.end) for delete in bot.deletes):
                raise Violation(f"bot {bot.number} was unknown at {span.start:.3f} although it was not deleted")


def _check_read(history: History, read: Read) -> None:
    """Invariants 2 and 3 on one document."""
    document = history.documents[read.doc_id]
    if document.bot != read.bot:
        if read.texts is not None:
            raise Violation(f"bot {read.bot} shows document {read.doc_id} of bot {document.bot}")
        return
    if read.texts is None:
        if _must_exist(history, document, read.span):
            raise Violation(f"document {read.doc_id} was lost: not found at {read.span.start:.3f}")
        return
    if _must_be_gone(history, document, read.span):
        raise Violation(f"document {read.doc_id} was deleted and shown at {read.span.start:.3f}")
    if not any(version.texts == read.texts for version in _allowed(history, document, read.span)):
        raise Violation(f"document {read.doc_id} was {read.texts} at {read.span.start:.3f}")
    _check_patch(history, document, read)


def _check_walk(history: History, walk: Walk) -> None:
    """Invariant 3 on a listing: what is there from its first page to its last is in it, and nothing twice."""
    where = f"walk over bot {walk.bot} from {walk.span.start:.3f} to {walk.span.end:.3f}"
    if len(set(walk.doc_ids)) < len(walk.doc_ids):
        raise Violation(f"{where} repeats a document: {walk.doc_ids}")
    for doc_id, document in history.documents.items():
        if document.bot == walk.bot and doc_id not in walk.doc_ids and _must_exist(history, document, walk.span):
            raise Violation(f"{where} skips document {doc_id}")
        if doc_id in walk.doc_ids and (document.bot != walk.bot or _must_be_gone(history, document, walk.span)):
            raise Violation(f"{where} shows document {doc_id}, which was deleted or is another bot's")


def _check_versions(history: History) -> None:
    """No version comes twice, and a conditional change follows the version that its client had read."""
    for doc_id, versions in history.lineage.items():
        if len({version.etag for version in versions}) < len(versions):
            raise Violation(f"document {doc_id} had a version twice: {versions}")
    for doc_id, read, written in history.modified:
        versions = history.lineage[doc_id]
        if written is not None and (read, written) not in pairwise(versions):
            raise Violation(f"an update of document {doc_id} was lost: {read} was read, {written} is in {versions}")


def _check_patch(history: History, document: DocumentHistory, read: Read) -> None:
    done = [(span, value) for span, value in document.patches if span.done_before(read.span.start)]
    if not done:
        return
    last, value = max(done, key=lambda patch: patch[0].end)
    others = [span for span, _ in document.patches if span is not last]
    others += [version.span for version in _versions(history, document)]
    if not any(other.end > last.start and other.maybe_before(read.span.end) for other in others) and (
        read.patched != value
    ):
        raise Violation(f"document {read.doc_id} forgot its patch {value}: {read.patched}")


def _check_shown(
    history: History,
    search: Searched,
    by_text: ByText,
    unsure: dict[str, Version],
) -> None:
    """Invariants 2 and 4: all results were current at one moment of the request, and belong to the bot."""
    where = f"search of bot {search.bot} at {search.span.start:.3f}"
    since, until = search.span.start, search.span.end
    generations: dict[int, int] = {}
    for found in search.results:
        generation = found.chunk_id // CHUNKS_PER_GENERATION
        if generations.setdefault(found.doc_id, generation) != generation:
            raise Violation(f"{where} shows two generations of document {found.doc_id}")
        if generation not in history.current:
            raise Violation(f"{where} shows generation {generation}, which never was current")
        since, until = max(since, history.current[generation][0]), min(until, history.current[generation][1])
        _check_found(history, search, found, by_text, unsure)
    if since > until:
        raise Violation(f"{where} shows what was not current at any one moment: {sorted(generations.values())}")
    scores = [found.score for found in search.results]
    if scores != sorted(scores, reverse=True):
        raise Violation(f"{where} is not in the order of its scores")
    if len(search.results) > search.limit or len({found.chunk_id for found in search.results}) < len(search.results):
        raise Violation(f"{where} shows too much")


def _check_found(
    history: History,
    search: Searched,
    found: Found,
    by_text: ByText,
    unsure: dict[str, Version],
) -> None:
    where = f"search of bot {search.bot} at {search.span.start:.3f} shows {found.text!r}"
    query, vector = embedding(search.text), embedding(found.text)
    cosine = float(query @ vector / np.linalg.norm(query) / np.linalg.norm(vector))
    if abs(cosine - found.score) > TOLERANCE:
        raise Violation(f"{where} with a score of {found.score}, not {cosine}")
    if search.kind not in (None, found.kind):
        raise Violation(f"{where}, which its filter excludes")
    if found.text in unsure:
        if unsure[found.text].span.outcome == "failed":
            raise Violation(f"{where}, whose insert had failed")
        return
    document, versions = by_text[found.text]
    if document is not history.documents.get(found.doc_id) or document.bot != search.bot:
        raise Violation(f"{where} of another document or bot")
    if _must_be_gone(history, document, search.span):
        raise Violation(f"{where}, which was deleted")
    if not any(version in versions for version in _allowed(history, document, search.span)):
        raise Violation(f"{where}, which had failed or was replaced")


def _check_complete(history: History, search: Searched, by_text: ByText) -> None:
    """Invariant 3: what was acknowledged before the search is among its results, if the limit leaves room."""
    if len(search.results) >= search.limit or search.may_lack_vectors:
        return
    if any(bot == search.bot and _overlaps(search.span, lacking) for bot, lacking in history.lacking):
        return
    shown = {found.text for found in search.results}
    for doc_id, document in history.documents.items():
        if document.bot != search.bot or search.kind not in (None, document.versions[0].kind):
            continue
        if not _must_exist(history, document, search.span):
            continue
        if not any(shown.issuperset(version.texts) for version in _allowed(history, document, search.span)):
            when = f"{search.span.start:.3f} to {search.span.end:.3f}"
            raise Violation(f"search of bot {search.bot} at {when} lacks document {doc_id}")


def _overlaps(span: Span, lacking: list[float]) -> bool:
    return lacking[0] <= span.end and span.start <= lacking[1]


def _deletes(history: History, document: DocumentHistory) -> list[Span]:
    """Deletions that may have removed the document: its own, and those of its bot that ended after its insert began."""
    born = document.versions[0].span
    bot = history.bots[document.bot]
    return document.deletes + [span for span in bot.deletes if not span.done_before(born.start)]


def _must_exist(history: History, document: DocumentHistory, reader: Span) -> bool:
    return document.versions[0].span.done_before(reader.start) and not any(
        span.maybe_before(reader.end) for span in _deletes(history, document)
    )


def _must_be_gone(history: History, document: DocumentHistory, reader: Span) -> bool:
    born = document.versions[0].span
    deletes = document.deletes + [span for span in history.bots[document.bot].deletes if span.start > born.end]
    return any(span.done_before(reader.start) for span in deletes)


def _versions(history: History, document: DocumentHistory) -> list[Version]:
    """The document's versions, and those that may be its by the external_id."""
    unknown = history.upserts.get((document.bot, document.external_id), ()) if document.external_id else ()
    return [*document.versions, *unknown]


def _allowed(history: History, document: DocumentHistory, reader: Span) -> list[Version]:
    """Versions that the reader may see: begun, not failed, and not replaced by one that was acknowledged before."""
    done = [version.span for version in document.versions if version.span.done_before(reader.start)]
    return [
        version
        for version in _versions(history, document)
        if version.span.maybe_before(reader.end)
        and not (version.span.outcome == "done" and any(later.start > version.span.end for later in done))
    ]


def check_rest(world: World) -> None:
    tables, milvus = world.tables, world.milvus
    bots = list(tables.bots.values())
    if any(bot.state != "active" for bot in bots):
        raise Violation("a bot is still being deleted")
    expected = {bot.collection for bot in bots if bot.embedding_model}
    # Those of bots that a restore forgot stay.
    if not expected <= set(milvus.data) or (set(milvus.data) != expected and not world.ever_restored):
        raise Violation(f"collections {set(milvus.data)}, not {expected}")
    if set(tables.partitions) != set(tables.bots):
        raise Violation("partitions and registry differ")
    texts = [chunk.text for bot in bots for _, chunk in tables.current(bot.bot_id)]
    if len(set(texts)) < len(texts):
        raise Violation("a text stands in two documents: one idempotency key had two effects")
    for bot in bots:
        names = [document.external_id for document in tables.partition(bot.bot_id).documents.values()]
        if any(names.count(name) > 1 for name in names if name):
            raise Violation(f"an external_id of bot {bot.bot_name} has two documents: {names}")
        current = {chunk.chunk_id: chunk.text for _, chunk in tables.current(bot.bot_id)}
        if set(tables.partition(bot.bot_id).chunks) != set(current):
            raise Violation(
                f"chunks of no current generation: {set(tables.partition(bot.bot_id).chunks) - set(current)}"
            )
        rows = milvus.rows(bot.collection) if bot.embedding_model else {}
        if set(rows) != set(current):
            surplus, lost = _generations(set(rows) - set(current)), _generations(set(current) - set(rows))
            raise Violation(f"vectors of bot {bot.bot_name}: surplus of generations {surplus}, lost of {lost}")
        for key, text in current.items():
            vector = embedding(text)
            if not np.allclose(rows[key], vector / np.linalg.norm(vector), atol=TOLERANCE):
                raise Violation(f"the vector of chunk {key} is not that of its text")


def check_nothing_is_missing(world: World) -> None:
    """Chunks that a restore of PostgreSQL brought back have vectors again, without a repair."""
    for bot in world.tables.bots.values():
        rows = world.milvus.rows(bot.collection) if bot.embedding_model else {}
        if missing := {chunk.chunk_id for _, chunk in world.tables.current(bot.bot_id)} - set(rows):
            raise Violation(f"bot {bot.bot_name} lacks vectors of generations {_generations(missing)} after a restore")


def check_loop(world: World) -> None:
    if world.loop.failures:
        raise Violation(f"an error that was never retrieved: {world.loop.failures[0]}")


def _generations(keys: set[int]) -> list[int]:
    return sorted({key // CHUNKS_PER_GENERATION for key in keys})
