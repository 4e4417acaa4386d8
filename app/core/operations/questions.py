"""Questions with known answers, asked of a bot, and their files: one JSON object in each line.

{"question": "경복궁은 언제 쉬나요?", "doc_id": 4711}
{"question": "경복궁은 언제 쉬나요?", "external_id": "guide/palace"}
{"question": "경복궁은 언제 쉬나요?", "passage": "화요일에 문을 닫는다"}
{"question": "경복궁은 언제 쉬나요?", "title": "경복궁 안내"}
{"question": "달의 지름은?", "doc_id": null}
"""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from app.core.search.query import Query, Result
from app.core.search.search import Search
from app.utils.errors import InvalidInput
from app.utils.stopwatch import Stopwatch
from app.utils.unicode import nfc

ANSWERS = ("doc_id", "external_id", "passage", "title")
KEYS = {"question", *ANSWERS}
BATCH: Final = 32
"""Questions that are asked together."""


class Question(NamedTuple):
    """The other fields name the answer: a document, or in ``passage`` a text that a right chunk contains. All None: the
    bot has no answer. ``line``: where it is in its file."""

    text: str
    doc_id: int | None = None
    passage: str | None = None
    title: str | None = None
    external_id: str | None = None
    line: int = 0

    @property
    def has_answer(self) -> bool:
        return any(answer is not None for answer in (self.doc_id, self.external_id, self.passage, self.title))

    def is_answered_by(self, result: Result) -> bool:
        if self.passage is not None:
            return self.passage in result.chunk.text
        if self.title is not None:
            return self.title == result.chunk.title
        if self.external_id is not None:
            return self.external_id == result.chunk.external_id
        return self.doc_id == result.chunk.doc_id


async def ask(
    search: Search, query: Query, questions: Sequence[Question], progress: Callable[[int], object]
) -> AsyncIterator[Sequence[tuple[Question, Sequence[Result]]]]:
    """Batches of questions, each question with the results of ``query`` for its text, one search after the other.

    ``progress`` is told the size of each finished batch. Raises as ``Search.query``.
    """
    for start in range(0, len(questions), BATCH):
        part = questions[start : start + BATCH]
        answer = await search.query(replace(query, texts=[question.text for question in part]), Stopwatch())
        yield list(zip(part, answer.results, strict=True))
        progress(len(part))


def read_questions(path: Path) -> list[Question]:
    """The questions of a file; empty lines are skipped. Raises InvalidInput, which names the line."""
    found = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidInput(f"{path} cannot be read: {exc}") from exc
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                found.append(_question(json.loads(line))._replace(line=number))
            except ValueError as exc:
                raise InvalidInput(f"{path}, line {number}: {exc}") from exc
    return found


def _question(value: Any) -> Question:
    if not isinstance(value, dict) or not isinstance(value.get("question"), str) or not value["question"].strip():
        raise ValueError('should be an object with "question"')
    if unknown := value.keys() - KEYS:
        raise ValueError(f"unknown key {min(unknown)!r}")
    named = [key for key in ANSWERS if key in value]
    if not named:
        raise ValueError('should have "doc_id", "external_id", "passage" or "title", null if the bot has no answer')
    if len([key for key in named if value[key] is not None]) > 1:
        raise ValueError(f"should have one of {', '.join(named)}")
    doc_id, external_id, passage, title = (value.get(key) for key in ANSWERS)
    if doc_id is not None and (not isinstance(doc_id, int) or isinstance(doc_id, bool)):
        raise ValueError('"doc_id" should be a number or null')
    for key, text in (("external_id", external_id), ("passage", passage), ("title", title)):
        if text is not None and (not isinstance(text, str) or not text.strip()):
            raise ValueError(f'"{key}" should be a text or null')
    return Question(value["question"], doc_id, passage, title and nfc(title), external_id and nfc(external_id))
