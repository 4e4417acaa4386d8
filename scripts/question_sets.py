"""The sets of questions that ``scripts.recall`` asks: each question has one right document."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scripts.korquad import paragraphs

PARAKQC = Path(__file__).resolve().parents[1] / "tests" / "data" / "paraKQC" / "paraKQC_v1.txt"
WORDINGS = 10
"""Sentences of paraKQC that say the same, one after the other in the file."""
PARAKQC_TITLE = "자주 묻는 말"


@dataclass(frozen=True)
class Entry:
    """A document of one chunk. ``article``: the documents that leave together when a question's subject is left out."""

    title: str
    text: str
    article: int


@dataclass(frozen=True)
class QuestionSet:
    """``entries``: the documents. ``asked``: (question, position of its right entry)."""

    name: str
    entries: Sequence[Entry]
    asked: Sequence[tuple[str, int]]

    def spread(self, count: int | None) -> "QuestionSet":
        """The same documents with ``count`` of the questions, evenly spread; None: all."""
        if count is None or count >= len(self.asked):
            return self
        places = np.linspace(0, len(self.asked) - 1, count).astype(int)
        return QuestionSet(self.name, self.entries, [self.asked[place] for place in places])


def korquad() -> QuestionSet:
    """Paragraphs of Korean Wikipedia, and questions of people who saw the paragraph."""
    everything = paragraphs()
    entries = [Entry(item.title, item.text, item.article) for item in everything]
    return QuestionSet(
        "korquad", entries, [(question, item.number) for item in everything for question in item.questions]
    )


def parakqc() -> QuestionSet:
    """Questions and requests, each in ten wordings: the first is stored, as in a FAQ, and the other nine are asked."""
    lines = PARAKQC.read_text(encoding="utf-8").splitlines()
    sentences = [line.split("\t")[2] for line in lines]
    entries, asked = [], []
    for start in range(0, len(sentences), WORDINGS):
        number = len(entries)
        entries.append(Entry(PARAKQC_TITLE, sentences[start], number))
        asked += [(sentence, number) for sentence in sentences[start + 1 : start + WORDINGS]]
    return QuestionSet("parakqc", entries, asked)


SETS: Mapping[str, Callable[[], QuestionSet]] = {"korquad": korquad, "parakqc": parakqc}
