"""Imports with and without vectors, then an export beside four writers that is killed once.

Paragraphs of KorQuAD, ten in each document, are embedded, exported, and imported in turns: with their vectors, and
embedded again. With ``--beside N``, N short chunks (hash embedder) are exported while four writers replace, insert and
delete documents. That export is killed in the middle and continued. Exits 1 if a file is not whole, a document in it is
not of one moment, or ``verify`` finds something.
"""

import argparse
import asyncio
import os
import random
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import patch
from uuid import UUID

from tqdm import tqdm

from app.core.bots.bots import NewBot
from app.core.commands import open_verifier
from app.core.services import Services, open_services
from app.export_command import Bar, export_bot, import_file
from app.export_file import ExportFile, ExportWriter
from app.schemas.rows import NewChunk, NewDocument
from app.settings_check import checked_settings
from app.utils.stopwatch import Stopwatch
from scripts.benchmarks.figures import Table, markdown
from scripts.korquad import paragraphs
from scripts.own_server import environment_of, own_folder
from tests.doubles.hash_embedder import HashEmbedder

CHUNKS_PER_DOCUMENT = 10
WRITERS = 4
BATCH = 100


async def make_bot(services: Services, number: int) -> UUID:
    bot_id = UUID(int=number)
    await services.bots.create(NewBot(bot_id, "transfer", f"transfer_{number}", "chatty"))
    return bot_id


async def fill(services: Services, bot_id: UUID, texts: list[list[str]]) -> None:
    documents = [
        NewDocument(f"document {number}", [NewChunk(index, text) for index, text in enumerate(own)])
        for number, own in enumerate(texts)
    ]
    for first in range(0, len(documents), BATCH):
        batch = documents[first : first + BATCH]
        await services.ingest.insert_many(None, [(bot_id, one) for one in batch], Stopwatch())


async def imports(folder: Path, count: int, rounds: int) -> Table:
    found = [one.text for one in paragraphs()[:count]]
    texts = [found[first : first + CHUNKS_PER_DOCUMENT] for first in range(0, len(found), CHUNKS_PER_DOCUMENT)]
    table = Table(
        "transfer", "An import with vectors, and embedded", note=f"{len(found)} chunks, {len(texts)} documents."
    )
    async with open_services(checked_settings()) as services:
        source = await make_bot(services, 1)
        await fill(services, source, texts)
        writer = ExportWriter(folder / "korquad.ndjson.gz")
        with silent() as bar:
            began = time.perf_counter()
            end = await export_bot(services.exporter, source, writer, bar, vectors=True)
            table.add(run="export", round=0, chunks_per_second=end.chunks / (time.perf_counter() - began))
            for number in range(rounds):
                for run, vectors in (("with vectors", True), ("embedded", False)):
                    target = await make_bot(services, 10 + 2 * number + vectors)
                    file = ExportFile(writer.path)
                    begun = await services.importer.begin(target, file.manifest().export_id, "error")
                    began = time.perf_counter()
                    counts = await import_file(begun, file, target, bar, vectors=vectors)
                    seconds = time.perf_counter() - began
                    assert counts["created"] == len(texts)
                    assert counts["embedded"] == (0 if vectors else len(found))
                    table.add(run=run, round=number + 1, chunks_per_second=len(found) / seconds)
    return table


def silent() -> Bar:
    return tqdm(disable=True)


@asynccontextmanager
async def writing(services: Services, bot_id: UUID, doc_ids: list[int]) -> AsyncIterator[list[int]]:
    """Writers that replace, insert and delete documents until the end of the block. Yields their numbers of writes.

    All chunks of a document have the number of its write: another number would be of another moment.
    """
    written = [0] * WRITERS

    async def write(writer: int) -> None:
        choices = random.Random(writer)
        own = doc_ids[writer::WRITERS]
        while True:
            written[writer] += 1
            text = f"version {writer} {written[writer]}"
            document = NewDocument(text, [NewChunk(index, f"{text} chunk {index}") for index in range(5)])
            place = choices.randrange(len(own))
            if choices.random() < 0.2:
                await services.documents.delete(bot_id, None, own[place])
                own[place] = (await services.ingest.insert(bot_id, None, document, Stopwatch()))[0].doc_id or 0
            else:
                await services.ingest.replace(bot_id, None, own[place], document, Stopwatch())

    tasks = [asyncio.create_task(write(writer)) for writer in range(WRITERS)]
    try:
        yield written
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def torn_documents(path: Path) -> int:
    """Documents whose chunks are not all of one write."""
    wrong = 0
    for batch in ExportFile(path).batches(UUID(int=1), vectors=True):
        for one in batch.documents:
            assert isinstance(one, NewDocument)
            if one.title.startswith("version"):
                wrong += len(one.chunks) != 5 or any(not chunk.text.startswith(f"{one.title} ") for chunk in one.chunks)
    return wrong


async def beside(folder: Path, chunks: int) -> tuple[Table, bool]:
    table = Table("beside", "An export beside four writers", note="Hash embedder, documents of five short chunks.")
    command = [sys.executable, "-m", "app.cli", "export", "--bot", str(UUID(int=2)), str(folder / "killed.ndjson.gz")]
    async with open_services(checked_settings()) as services:
        bot_id = await make_bot(services, 2)
        texts = [[f"document {number} chunk {index}" for index in range(5)] for number in range(chunks // 5)]
        began = time.perf_counter()
        await fill(services, bot_id, texts)
        table.add(run="load", chunks_per_second=chunks / (time.perf_counter() - began), writes=0, null_vectors=0)
        doc_ids = [one.doc_id for one in (await services.documents.list(bot_id, None, 0, chunks))[0]]
        async with writing(services, bot_id, doc_ids) as written:
            writer = ExportWriter(folder / "beside.ndjson.gz")
            began, before = time.perf_counter(), sum(written)
            with silent() as bar:
                end = await export_bot(services.exporter, bot_id, writer, bar, vectors=True)
            speed, writes = end.chunks / (time.perf_counter() - began), sum(written) - before
            table.add(run="export", chunks_per_second=speed, writes=writes, null_vectors=end.chunks - end.vectors)
            good = torn_documents(writer.path) == 0
            killed = await asyncio.create_subprocess_exec(*command)
            part = folder / "killed.ndjson.gz.part"
            while not part.exists() or part.stat().st_size < writer.path.stat().st_size // 3:
                await asyncio.sleep(0.05)
            killed.send_signal(signal.SIGKILL)
            await killed.wait()
            good &= not (folder / "killed.ndjson.gz").exists()
            again = await asyncio.create_subprocess_exec(*command)
            good &= await again.wait() == 0 and torn_documents(folder / "killed.ndjson.gz") == 0
    async with open_verifier(checked_settings()) as verifier:
        findings = [finding for bot in await verifier.bots() async for finding in verifier.check_bot(bot)]
    table.note += f" Peak of memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB, load included."
    return table, good and not findings


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--paragraphs", type=int, default=960, help="that are imported (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="of imports; 0 for none (default: %(default)s)")
    parser.add_argument("--beside", type=int, default=0, metavar="N", help="chunks of the export beside writers")


def main(options: argparse.Namespace) -> int:
    good = True
    command = f"scripts/bench transfer --paragraphs {options.paragraphs} --rounds {options.rounds}"
    with own_folder() as folder:
        os.environ |= environment_of(folder, EMBEDDING_CACHE_MB="0", INDEX_CHECK_INTERVAL_SECONDS="0")
        if options.rounds:
            print(markdown(command, [asyncio.run(imports(folder, options.paragraphs, options.rounds))]))
        if options.beside:
            with patch("app.core.services.open_embedder", _hash_embedder):
                table, good = asyncio.run(beside(folder, options.beside))
            print(markdown(f"scripts/bench transfer --rounds 0 --beside {options.beside}", [table]))
    print("as expected" if good else "not as expected")
    return int(not good)


async def _hash_embedder(_settings: object) -> HashEmbedder:
    return HashEmbedder()
