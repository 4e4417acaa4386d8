"""What filters cost, and whether they hide results, compared with brute force.

Filters that one of 3,000 documents passes, and all but one, in each search mode. Each document is a sentence or two of
KorQuAD. The right results are those of exact cosine similarity, computed here. Exits 1 when too few results are right
or a filter makes a search too slow.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from app.core.embedding.providers.use_multilingual import UseMultilingual
from scripts.api_client import ApiClient
from scripts.korquad import paragraphs
from scripts.own_server import own_server

BOT = str(UUID(int=1))
DOCUMENTS = 3000
BATCH = 100
TOP_K = 5
TIE = 1e-4
LEAST_RIGHT = 0.99
MOST_TIMES = 3.0


def texts() -> list[str]:
    pieces: list[str] = []
    for paragraph in paragraphs():
        text = paragraph.text
        third = len(text) // 4 + 1
        pieces.extend(piece for start in range(0, len(text), third) if (piece := text[start : start + third].strip()))
    return list(dict.fromkeys(pieces))[:DOCUMENTS]


def load(server: ApiClient, wanted: Sequence[str]) -> None:
    server.call("POST", "/collection/create", {"chat_bot_id": BOT, "bot_name": "filters", "collection_name": "filters"})
    for start in tqdm(range(0, len(wanted), BATCH), desc="insert", unit="batch", disable=None):
        documents = [
            {
                "document": {"chat_bot_id": BOT, "title": "t", "metadata": {"number": number}},
                "chunks": [{"chunk_index": 0, "text": text}],
            }
            for number, text in enumerate(wanted[start : start + BATCH], start)
        ]
        if server.call("POST", "/data/insert/batch", {"documents": documents})["status"] != "success":
            raise SystemExit("Not every document was stored.")


def measure(
    server: ApiClient, questions: Sequence[str], cosines: NDArray[np.float32], operator: str | None, mode: str
) -> tuple[float, float, str]:
    """(share of right answers, median milliseconds, the filter plan).

    Right is the exact list in dense mode; in the others, as many results as there should be, which all pass the filter.
    """
    right, times, plan = 0, [], "-"
    for turn, (question, similar) in enumerate(tqdm([*zip(questions, cosines, strict=True)], disable=None)):
        number = turn * 7 % len(similar)
        body: dict[str, Any] = {"chat_bot_id": BOT, "query_text": question, "limit": TOP_K, "mode": mode}
        passes = np.ones(len(similar), bool)
        if operator is not None:
            body["filter"] = {"type": operator, "key": "metadata.number", "value": number}
            passes = (np.arange(len(similar)) == number) == (operator == "eq")
        start = time.perf_counter()
        answer = server.call("POST", "/search/query", body)
        times.append((time.perf_counter() - start) * 1000)
        plan = answer["timings"]["filter_plan"] or "-"
        found = [result["document"]["metadata"]["number"] for result in answer["results"]]
        best = np.sort(similar[passes])[::-1][:TOP_K]
        if mode == "dense":
            right += (
                len(found) == len(best) and bool(np.all(similar[found] >= best - TIE)) and bool(passes[found].all())
            )
        else:
            right += bool(passes[found].all()) and (mode == "lexical" or len(found) == len(best))
    return right / len(questions), statistics.median(times), plan


async def embedded(wanted: Sequence[str]) -> NDArray[np.float32]:
    embedder = UseMultilingual()
    try:
        return await embedder.embed_documents(wanted)
    finally:
        await embedder.close()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--questions", type=int, default=200, help="for each row (default: %(default)s)")


def main(options: argparse.Namespace) -> int:
    stored = texts()
    questions = [question for item in paragraphs() for question in item.questions]
    questions = questions[:: len(questions) // options.questions][: options.questions]
    cosines = asyncio.run(embedded(questions)) @ asyncio.run(embedded(stored)).T
    good = True
    print(f"{len(stored):,} documents, {len(questions)} questions      right   median ms   times   plan")
    with own_server() as address:
        server = ApiClient(address)
        load(server, stored)
        for mode in ("dense", "lexical", "hybrid"):
            measure(server, questions[:20], cosines[:20], None, mode)  # warms up
            plain = 0.0
            for name, operator in (("no filter", None), ("one passes", "eq"), ("all but one pass", "ne")):
                right, median, plan = measure(server, questions, cosines, operator, mode)
                plain = plain or median
                good &= right >= LEAST_RIGHT and median < MOST_TIMES * plain
                print(f"{mode:<10} {name:<24} {right:10.3f} {median:11.1f} {median / plain:7.2f}   {plan}", flush=True)
    return int(not good)
