"""Chunk texts that name their bot, document, version and position, so that every answer can be judged by itself."""

import re
from dataclasses import dataclass
from random import Random

UNEMBEDDABLE = "this text has no vector"
_PATTERN = re.compile(r"bot (\S+) document (\d+) version (\d+) chunk (\d+) of (\d+): ")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class ChunkLabel:
    """What the text of a chunk says about the chunk."""

    bot: str
    label: int
    version: int
    number: int
    count: int


def chunk_texts(bot: str, label: int, version: int, count: int) -> list[str]:
    """The texts of one version of a document. Random words make their vectors differ."""
    random = Random(f"{bot}/{label}/{version}")
    return [
        f"bot {bot} document {label} version {version} chunk {number} of {count}: {_words(random)}"
        for number in range(count)
    ]


def parse_chunk_text(text: str) -> ChunkLabel | None:
    """The label in a text, or None for a text that no client wrote."""
    match = _PATTERN.match(text)
    return ChunkLabel(match[1], *map(int, match.groups()[1:])) if match else None


def title(label: int, version: int) -> str:
    return f"document {label} version {version}"


def _words(random: Random) -> str:
    return " ".join("".join(random.choices(_LETTERS, k=6)) for _ in range(10))
