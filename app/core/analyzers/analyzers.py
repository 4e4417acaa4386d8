"""The analyzers, by version: each turns a text into the tokens that the lexical field stores and searches.

The words of a collection come from one analyzer, whose version is in the bot's row; queries are analyzed by the same
one. So an analyzer is never changed: another one gets the next version, and the older ones stay, for collections that
were written with them. The tokens are joined with blanks, and the ``standard`` analyzers of Milvus and Milvus Lite then
only split the text at the blanks.
"""

from collections.abc import Callable, Iterable
from typing import Final

from app.core.analyzers import pairs, units

MAX_BYTES: Final = 65_535
"""Milvus's longest VARCHAR, in bytes of UTF-8 (https://milvus.io/docs/limitations.md)."""

_TOKENS: Final[dict[int, Callable[[str], Iterable[str]]]] = {1: pairs.tokens, 2: units.tokens}

NEWEST: Final = max(_TOKENS)
"""The version that new bots get, and others by ``reindex`` or a model migration."""


def tokens(text: str, version: int) -> list[str]:
    """The tokens of the text, a repeated one as often as it occurs."""
    return list(_TOKENS[version](text))


def analyzed_text(title: str, text: str, title_in_lexical: bool) -> str:
    """What is analyzed for a chunk: its text, after the title of its document if that is in the lexical field."""
    return f"{title}\n{text}" if title_in_lexical else text


def lexical_text(text: str, version: int) -> str:
    """The tokens joined with blanks, in at most MAX_BYTES bytes of UTF-8.

    The 8,192 characters of a chunk make at most 57,336 bytes as pairs of Hangul, Kana or common Han. Rare Han, with
    four bytes each, characters that NFKC expands, and the second analyzer's further tokens can exceed MAX_BYTES. Then
    the last tokens, which are the least useful ones, are left out, and the text is found by the others.
    """
    joined = " ".join(_TOKENS[version](text))
    if len(joined) * 4 <= MAX_BYTES:
        return joined
    encoded = joined.encode()
    if len(encoded) <= MAX_BYTES:
        return joined
    end = encoded.rfind(b" ", 0, MAX_BYTES + 1)
    return encoded[: end if end > 0 else MAX_BYTES].decode(errors="ignore")
