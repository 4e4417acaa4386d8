"""The first analyzer: pairs of characters and whole words.

Runs of Hangul, Kana and Han become overlapping pairs of characters (bigrams), so a noun is found regardless of the
particle after it and of the blanks around it. Every other word is one token.
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

BIGRAM_CHARS: Final = (
    "\u1100-\u11ff\ua960-\ua97f\uac00-\ud7ff"  # Hangul
    "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"  # Kana
    "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # Han
)
_RUN: Final = re.compile(f"(?P<bigrams>(?:(?=\\w)[{BIGRAM_CHARS}])+)|[^\\W_{BIGRAM_CHARS}]+")


def tokens(text: str) -> Iterator[str]:
    """The tokens of the text in order, in NFKC and lower case. A run of a single bigram character is one token."""
    for run in _RUN.finditer(unicodedata.normalize("NFKC", text).lower()):
        found = run.group()
        if run.lastgroup is None or len(found) == 1:
            yield found
        else:
            yield from map(str.__add__, found, found[1:])
