"""Files of questions with known answers: one JSON object in each line.

{"question": "경복궁은 언제 쉬나요?", "doc_id": 4711}
{"question": "경복궁은 언제 쉬나요?", "passage": "화요일에 문을 닫는다"}
{"question": "달의 지름은?", "doc_id": null}
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from app.core.search.query import Result
from app.utils.errors import InvalidInput

KEYS = {"question", "doc_id", "passage"}


class Question(NamedTuple):
    """``doc_id`` or ``passage`` name the answer: a document, or a text that a right chunk contains. Both None: the bot
    has no answer."""

    text: str
    doc_id: int | None = None
    passage: str | None = None

    @property
    def has_answer(self) -> bool:
        return self.doc_id is not None or self.passage is not None

    def is_answered_by(self, result: Result) -> bool:
        if self.passage is not None:
            return self.passage in result.chunk.text
        return self.doc_id == result.chunk.doc_id


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
                found.append(_question(json.loads(line)))
            except ValueError as exc:
                raise InvalidInput(f"{path}, line {number}: {exc}") from exc
    return found


def _question(value: Any) -> Question:
    if not isinstance(value, dict) or not isinstance(value.get("question"), str) or not value["question"].strip():
        raise ValueError('should be an object with "question"')
    if unknown := value.keys() - KEYS:
        raise ValueError(f"unknown key {min(unknown)!r}")
    doc_id, passage = value.get("doc_id"), value.get("passage")
    if "doc_id" not in value and "passage" not in value:
        raise ValueError('should have "doc_id" or "passage", null if the bot has no answer')
    if doc_id is not None and (not isinstance(doc_id, int) or isinstance(doc_id, bool)):
        raise ValueError('"doc_id" should be a number or null')
    if passage is not None and (not isinstance(passage, str) or not passage.strip()):
        raise ValueError('"passage" should be a text or null')
    if doc_id is not None and passage is not None:
        raise ValueError('should have "doc_id" or "passage", not both')
    return Question(value["question"], doc_id, passage)
