"""The text that scripts load: 964 paragraphs of Korean Wikipedia with 5,774 questions, the KorQuAD 1.0 dev set."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).resolve().parents[1] / "tests" / "data" / "KorQuAD_v1.0_dev.json"


@dataclass(frozen=True)
class Paragraph:
    """``number`` is its position in the data set; ``article`` is the position of the article that holds it."""

    number: int
    article: int
    title: str
    text: str
    questions: Sequence[str]


def paragraphs() -> list[Paragraph]:
    """All of them, in the order of the file."""
    found: list[Paragraph] = []
    for position, article in enumerate(json.loads(DATA.read_text(encoding="utf-8"))["data"]):
        for paragraph in article["paragraphs"]:
            questions = [qa["question"] for qa in paragraph["qas"]]
            found.append(Paragraph(len(found), position, article["title"], paragraph["context"], questions))
    return found


def spread(count: int) -> list[Paragraph]:
    """``count`` paragraphs that are spread evenly over the data set."""
    everything = paragraphs()
    return everything[:: max(1, len(everything) // count)][:count]
