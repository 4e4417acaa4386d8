"""Measures how often each search mode finds the right one of 964 Korean paragraphs, through the API.

All paragraphs of KorQuAD are in one bot of a server of its own. Each of the 5,774 questions has one right paragraph.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from tqdm import tqdm

from scripts.api_client import ApiClient
from scripts.korquad import Paragraph, paragraphs, recall
from scripts.own_server import own_server

BOT = str(UUID(int=1))
MODES = ("dense", "lexical", "hybrid")
BATCH = 50
QUERIES = 64
TOP_K = 5
TIMED = 200


def load(server: ApiClient, wanted: Sequence[Paragraph]) -> None:
    """One bot, every paragraph a document of one chunk."""
    server.call("POST", "/collection/create", {"chat_bot_id": BOT, "bot_name": "recall", "collection_name": "recall"})
    with tqdm(total=len(wanted), desc="insert", unit="document", disable=None) as progress:
        for start in range(0, len(wanted), BATCH):
            part = wanted[start : start + BATCH]
            documents = [
                {
                    "document": {"chat_bot_id": BOT, "title": item.title, "metadata": {"number": item.number}},
                    "chunks": [{"chunk_index": 0, "text": item.text}],
                }
                for item in part
            ]
            answer = server.call("POST", "/data/insert/batch", {"documents": documents})
            if answer["success_count"] != len(part):
                raise SystemExit("Not every document was stored.")
            progress.update(len(part))


def ask(server: ApiClient, questions: Sequence[str], options: dict[str, Any]) -> list[list[int]]:
    """For each question the numbers of the best TOP_K paragraphs."""
    body = {"chat_bot_id": BOT, "limit": TOP_K, **options}
    ranked: list[list[int]] = []
    with tqdm(total=len(questions), desc=_name(options), unit="question", disable=None) as progress:
        for start in range(0, len(questions), QUERIES):
            part = questions[start : start + QUERIES]
            answers = server.call("POST", "/search/batch", {**body, "query_texts": part})["answers"]
            ranked.extend([result["document"]["metadata"]["number"] for result in one["results"]] for one in answers)
            progress.update(len(part))
    return ranked


def latency(server: ApiClient, questions: Sequence[str], options: dict[str, Any]) -> float:
    """Median milliseconds of a question alone, one after the other."""
    times = []
    for question in questions[:: max(1, len(questions) // TIMED)][:TIMED]:
        start = time.perf_counter()
        server.call("POST", "/search/query", {"chat_bot_id": BOT, "limit": TOP_K, "query_text": question, **options})
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


def _name(options: dict[str, Any]) -> str:
    weight = options.get("dense_weight")
    return options["mode"] if weight is None else f"{options['mode']} {weight}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/recall", description=__doc__)
    parser.add_argument("--mode", default="dense,lexical,hybrid", help="of these, with commas (default: %(default)s)")
    parser.add_argument("--dense-weight", help="weights for hybrid mode, with commas (default: the server's)")
    parser.add_argument("--questions", type=int, help="how many, evenly spread (default: all 5,774)")
    arguments = parser.parse_args()
    modes = arguments.mode.split(",")
    if unknown := set(modes) - set(MODES):
        parser.error(f"no mode {', '.join(unknown)}: use {', '.join(MODES)}")

    everything = paragraphs()
    asked = [(question, item.number) for item in everything for question in item.questions]
    if arguments.questions:
        asked = asked[:: max(1, len(asked) // arguments.questions)][: arguments.questions]
    questions, right = [question for question, _ in asked], [number for _, number in asked]
    weights = [float(weight) for weight in arguments.dense_weight.split(",")] if arguments.dense_weight else [None]
    tried = [
        {"mode": mode} if weight is None else {"mode": mode, "dense_weight": weight}
        for mode in modes
        for weight in (weights if mode == "hybrid" else [None])
    ]
    with own_server() as address:
        server = ApiClient(address)
        load(server, everything)
        rows = []
        for options in tried:
            ranked = ask(server, questions, options)
            times = latency(server, questions, options)
            rows.append((_name(options), recall(ranked, right, 1), recall(ranked, right, TOP_K), times))
    print(f"over {len(questions):,} questions   recall@1   recall@{TOP_K}   median ms")
    for name, first, best, times in rows:
        print(f"{name:<22} {first:10.3f} {best:10.3f} {times:11.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
