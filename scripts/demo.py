"""Loads 964 paragraphs of KorQuAD into three bots of a running server and measures how many questions find theirs.

The paragraphs are spread over the bots by article. Each question goes to all three bots and the answers are merged by
score, so that the result can be compared with exact cosine similarity over all paragraphs at once.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
from tqdm import tqdm

from app.core.embedding.providers.use_multilingual import UseMultilingual
from scripts.api_client import ApiClient
from scripts.korquad import Paragraph, paragraphs
from scripts.ranking_metrics import places, recall_at

BOTS = {name: str(uuid5(NAMESPACE_URL, f"urn:chat-memory:demo:{name}")) for name in ("red", "green", "blue")}
BATCH = 50
CLIENTS = 4
TOP_K = 5
SHOWN = 3
SAMPLE = 500
TOLERANCE = 0.01


def load(server: ApiClient, wanted: Sequence[Paragraph]) -> None:
    """Deletes the bots of an earlier run, registers them and inserts every paragraph as a document of one chunk."""
    for name, bot_id in BOTS.items():
        server.call("DELETE", f"/collection/{bot_id}", expect=(200, 404))
        bot = {"chat_bot_id": bot_id, "bot_name": f"{name} demo bot", "collection_name": f"demo_{name}"}
        server.call("POST", "/collection/create", bot)
    stored = 0
    with tqdm(total=len(wanted), desc="insert", unit="document", disable=None) as progress:
        for start in range(0, len(wanted), BATCH):
            part = wanted[start : start + BATCH]
            answer = server.call("POST", "/data/insert/batch", {"documents": [_document(item) for item in part]})
            stored += answer["success_count"]
            progress.update(len(part))
    held = [server.call("GET", f"/collection/{bot_id}")["document_count"] for bot_id in BOTS.values()]
    print(f"{stored} of {len(wanted)} documents inserted; the three bots hold {' + '.join(map(str, held))}")
    if stored != len(wanted) or sum(held) != len(wanted):
        raise SystemExit("Not every document was stored.")


def _document(item: Paragraph) -> dict[str, Any]:
    bot_id = list(BOTS.values())[item.article % len(BOTS)]
    document = {"chat_bot_id": bot_id, "title": item.title, "metadata": {"number": item.number}}
    return {"document": document, "chunks": [{"chunk_index": 0, "text": item.text}]}


def ask(server: ApiClient, question: str) -> list[dict[str, Any]]:
    """The best TOP_K results of all three bots."""
    # Cosine similarity can be compared across bots and with the exact one; fused scores cannot.
    body = {"query_text": question, "limit": TOP_K, "mode": "dense"}
    found = [
        result
        for bot_id in BOTS.values()
        for result in server.call("POST", "/search/query", {**body, "chat_bot_id": bot_id})["results"]
    ]
    return sorted(found, key=lambda result: -result["score"])[:TOP_K]


async def exact(texts: Sequence[str], questions: Sequence[str]) -> list[list[int]]:
    """The TOP_K nearest paragraphs of each question by cosine similarity, computed here."""
    embedder = UseMultilingual()
    try:
        stored = await embedder.embed_documents(texts)
        nearest: list[list[int]] = []
        for start in tqdm(range(0, len(questions), 256), desc="exact cosine", unit="batch", disable=None):
            asked = await embedder.embed_documents(questions[start : start + 256])
            nearest.extend(np.argsort(-(asked @ stored.T), axis=1, kind="stable")[:, :TOP_K].tolist())
        return nearest
    finally:
        await embedder.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--all", action="store_true", help=f"ask all 5,774 questions instead of {SAMPLE}")
    default = f"http://{os.environ.get('HOST', '127.0.0.1')}:{os.environ.get('PORT', '8000')}"
    default = os.environ.get("BASE_URL", default)
    parser.add_argument("--url", default=default, help="the server (default: BASE_URL, or HOST and PORT: %(default)s)")
    arguments = parser.parse_args()

    server = ApiClient(arguments.url)
    server.call("GET", "/health/ready")
    everything = paragraphs()
    load(server, everything)

    asked = [(question, item.number) for item in everything for question in item.questions]
    if not arguments.all:
        asked = asked[:: len(asked) // SAMPLE][:SAMPLE]
    for question, number in asked[:: len(asked) // SHOWN][:SHOWN]:
        best = ask(server, question)[0]
        mark = "right" if best["document"]["metadata"]["number"] == number else "another paragraph"
        print(f"\n{question}\n  {best['score']:.3f} {mark}: {best['chunk_text'][:90]}...")
    print(f"\nEach question goes to all three bots; the best {TOP_K} by score count, as from one bot that held all.\n")

    questions, right = [question for question, _ in asked], [number for _, number in asked]
    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = clients.map(lambda question: ask(server, question), questions)
        progress = tqdm(answers, total=len(questions), desc="search", unit="question", disable=None)
        ranked = [[result["document"]["metadata"]["number"] for result in answer] for answer in progress]
    reference = asyncio.run(exact([item.text for item in everything], questions))

    print(f"over {len(questions):,} questions   recall@1   recall@{TOP_K}")
    ours, exactly = places(ranked, right), places(reference, right)
    for name, found in (("this server", ours), ("exact cosine", exactly)):
        print(f"{name:<22} {recall_at(1, found):10.3f} {recall_at(TOP_K, found):10.3f}")
    return int(abs(recall_at(TOP_K, ours) - recall_at(TOP_K, exactly)) > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
