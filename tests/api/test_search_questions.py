"""18 kinds of questions that depend on how a thing is written, 10 of each, with the default embedder through the API.

``tests/data/search_questions.json`` was written for this test: documents with near duplicates, and for each question
the document that answers it. All documents are in one bot.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from app.core.embedding.port import Embedder
from app.core.embedding.providers.use_multilingual import UseMultilingual
from tests.conftest import register

DATA: Final = Path(__file__).parents[1] / "data" / "search_questions.json"
LEAST, LEAST_OF_A_KIND = 165, 8
"""Right in the first place, of all 180 questions and of the 10 of each kind."""


@pytest.fixture
def embedder() -> Embedder:
    return UseMultilingual(threads=1)


async def test_18_kinds_of_questions(client: httpx.AsyncClient) -> None:
    kinds = json.loads(DATA.read_text(encoding="utf-8"))
    bot = await register(client)
    numbers: dict[int, int] = {}
    documents = [one for kind in kinds for one in kind["documents"]]
    for start in range(0, len(documents), 50):
        body = [bot.body(one["text"], title=one["title"] or "-") for one in documents[start : start + 50]]
        answer = (await client.post("/data/insert/batch", json={"documents": body})).json()
        assert answer["success_count"] == len(body)
        numbers |= {one["doc_id"]: start + position for position, one in enumerate(answer["results"])}
    right, offset = Counter[str](), 0
    for kind in kinds:
        texts = [question["text"] for question in kind["questions"]]
        body = {"chat_bot_id": str(bot.bot_id), "query_texts": texts, "limit": 1, "mode": "hybrid"}
        answers: list[dict[str, Any]] = (await client.post("/search/batch", json=body)).json()["answers"]
        for question, found in zip(kind["questions"], answers, strict=True):
            best = numbers[found["results"][0]["doc_id"]]
            right[kind["kind"]] += best == offset + question["document"]
        offset += len(kind["documents"])
    assert right.total() >= LEAST, right
    assert min(right[kind["kind"]] for kind in kinds) >= LEAST_OF_A_KIND, right
