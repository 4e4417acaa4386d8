"""Three bots, 964 paragraphs of KorQuAD, and the question whether the right ones are found.

The paragraphs are spread over the bots by article. A question is asked of all three and the answers are merged by
score, so that the result can be compared with exact cosine similarity over all paragraphs at once.
"""

import argparse
import asyncio
import http.client
import json
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, uuid5

import numpy as np
from tqdm import tqdm

from app.core.embedding.providers.use_multilingual import UseMultilingual

DATA = Path(__file__).resolve().parents[1] / "tests" / "data" / "KorQuAD_v1.0_dev.json"
BOTS = {name: str(uuid5(NAMESPACE_URL, f"urn:chat-memory:demo:{name}")) for name in ("red", "green", "blue")}
BATCH = 50
CLIENTS = 4
TOP_K = 5
SHOWN = 3
SAMPLE = 500
TOLERANCE = 0.01


@dataclass(frozen=True)
class Paragraph:
    number: int
    bot: str
    title: str
    text: str
    questions: Sequence[str]


class Server:
    """A connection a thread; raises SystemExit with one line when the server does not do as it should."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        if self._url.scheme not in kinds or not self._url.netloc:
            raise SystemExit(f"{url!r} is no address of a server: write it like http://127.0.0.1:8000.")
        self._kind = kinds[self._url.scheme]
        self._local = threading.local()

    def call(self, method: str, path: str, body: object = None, *, expect: Sequence[int] = (200, 201)) -> Any:
        try:
            if not hasattr(self._local, "connection"):
                self._local.connection = self._kind(self._url.netloc, timeout=300)
            data = None if body is None else json.dumps(body)
            self._local.connection.request(method, path, data, {"Content-Type": "application/json"})
            answer = self._local.connection.getresponse()
            content = json.loads(answer.read())
        except (OSError, ValueError, http.client.HTTPException) as exc:
            raise SystemExit(f"No server at {self._url.geturl()} ({exc}): start one with scripts/server.") from exc
        if answer.status not in expect:
            raise SystemExit(f"{method} {path}: {answer.status} {content.get('detail', content)}")
        return content


def paragraphs() -> list[Paragraph]:
    articles = json.loads(DATA.read_text(encoding="utf-8"))["data"]
    names = list(BOTS)
    found: list[Paragraph] = []
    for position, article in enumerate(articles):
        for paragraph in article["paragraphs"]:
            questions = [qa["question"] for qa in paragraph["qas"]]
            bot = names[position % len(names)]
            found.append(Paragraph(len(found), bot, article["title"], paragraph["context"], questions))
    return found


def load(server: Server, wanted: Sequence[Paragraph]) -> None:
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
    document = {"chat_bot_id": BOTS[item.bot], "title": item.title, "metadata": {"number": item.number}}
    return {"document": document, "chunks": [{"chunk_index": 0, "text": item.text}]}


def ask(server: Server, question: str) -> list[dict[str, Any]]:
    """The best TOP_K results of all three bots."""
    # Cosine similarity can be compared across bots and with the exact one; fused scores cannot.
    body = {"query_text": question, "limit": TOP_K, "mode": "dense"}
    found = [
        result
        for bot_id in BOTS.values()
        for result in server.call("POST", "/search/query", {**body, "chat_bot_id": bot_id})["results"]
    ]
    return sorted(found, key=lambda result: -result["score"])[:TOP_K]


def recall(ranked: Iterable[Sequence[int]], right: Sequence[int], k: int) -> float:
    return float(np.mean([number in numbers[:k] for numbers, number in zip(ranked, right, strict=True)]))


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

    server = Server(arguments.url)
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
    for name, numbers in (("this server", ranked), ("exact cosine", reference)):
        print(f"{name:<22} {recall(numbers, right, 1):10.3f} {recall(numbers, right, TOP_K):10.3f}")
    return int(abs(recall(ranked, right, TOP_K) - recall(reference, right, TOP_K)) > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
