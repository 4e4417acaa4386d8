"""What a PUT costs of a document of which one chunk changed, beside a PUT of which every chunk changed.

use-multilingual embeds, without a cache. A server that does not take vectors along embeds every chunk in both cases.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from tqdm import tqdm

from scripts.api_client import ApiClient
from scripts.benchmarks.figures import Table, markdown
from scripts.korquad import paragraphs
from scripts.own_server import own_server

BOT = "5a2f6b1e-0d3c-4a57-9b8e-6f1d2c3b4a50"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--chunks", type=int, default=1000, help="chunks of the document (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="PUTs of each kind (default: %(default)s)")
    parser.add_argument("--milvus", choices=("lite", "server"), default="lite", help="(default: %(default)s)")


def main(options: argparse.Namespace) -> int:
    with _server(options.milvus) as address:
        table = measure(ApiClient(address), options.chunks, options.rounds, options.milvus)
    command = f"scripts/bench put --chunks {options.chunks} --rounds {options.rounds} --milvus {options.milvus}"
    print(markdown(command, [table]))
    return 0


def measure(server: ApiClient, chunks: int, rounds: int, milvus: str) -> Table:
    server.call("POST", "/collection/create", {"chat_bot_id": BOT, "bot_name": "put", "collection_name": "put"})
    found = paragraphs()
    texts = [f"{number // len(found)} {found[number % len(found)].text}" for number in range(chunks)]
    doc_id = server.call("POST", "/data/insert", _body(texts))["doc_id"]
    times: dict[str, list[float]] = {"one chunk changed": [], "every chunk changed": [], "no chunk changed": []}
    embedded: dict[str, int] = {}
    for turn in tqdm(range(rounds), desc="rounds", disable=None):
        for name, taken in times.items():
            if name == "one chunk changed":
                texts[chunks // 2] += f" {turn}"
            elif name == "every chunk changed":
                texts = [f"{text} {turn}" for text in texts]
            began = time.perf_counter()
            answer = server.call("PUT", f"/data/document/{doc_id}", _body(texts))
            taken.append(time.perf_counter() - began)
            embedded[name] = answer["embedded_chunks"]
    note = f"One document of {chunks:,} chunks, Milvus {milvus}, use-multilingual, no cache. The median of {rounds}."
    table = Table("put", "PUT of a document, by what changed", note=note)
    whole = median(times["every chunk changed"])
    for name, taken in times.items():
        seconds = median(taken)
        cells = {"embedded": embedded[name], "seconds": f"{seconds:.3f}", "times as fast": f"{whole / seconds:.1f}"}
        table.add(PUT=name, **cells)
    return table


def _body(texts: list[str]) -> dict[str, object]:
    return {
        "document": {"chat_bot_id": BOT, "title": "put"},
        "chunks": [{"chunk_index": number, "text": text} for number, text in enumerate(texts)],
    }


@contextmanager
def _server(milvus: str) -> Iterator[str]:
    settings = {"EMBEDDING_MODEL": "use-multilingual", "EMBEDDING_CACHE_MB": "0", "INGEST_TIMEOUT": "600"}
    if milvus == "lite":
        with own_server(**settings) as address:
            yield address
        return
    from tests.milvus_server import MilvusServer

    with (
        tempfile.TemporaryDirectory(prefix="milvus-") as folder,
        MilvusServer(Path(folder)) as server,
        own_server(**settings, MILVUS_URI=server.uri) as address,
    ):
        yield address
