"""Lexical analysis: bigrams, whole words, and the longest text."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.analyzers.analyzers import MAX_BYTES, NEWEST, lexical_text, tokens
from app.core.search.lexical import estimated_bm25
from tests.doubles.memory_index import MemoryIndex


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("서울은 아름답다", ["서울", "울은", "아름", "름답", "답다"]),
        ("강", ["강"]),
        ("2019년 K-POP", ["2019", "년", "k", "pop"]),
        ("東京タワー", ["東京", "京タ", "タワ", "ワー"]),
        ("ﾊﾝｶｸ ＡＢＣ", ["ハン", "ンカ", "カク", "abc"]),
        ("\u1112\u1161\u11ab글", ["한글"]),  # Jamo compose.
        ("snake_case, it's", ["snake", "case", "it", "s"]),
        ("\U00020000\U00020001", ["\U00020000\U00020001"]),
        ("?! ... \n", []),
    ],
)
def test_tokens(text: str, expected: list[str]) -> None:
    assert tokens(text, 1) == expected


@pytest.mark.parametrize("character", ["가", "漢", "\U00020000", "\ufdfa", "\u3300", "\ufdfc", "a", "한 "])
def test_the_longest_chunk_fits(character: str) -> None:
    text = (character * 8192)[:8192]
    found = lexical_text(text, 1)
    assert len(found.encode()) <= MAX_BYTES
    whole = " ".join(tokens(text, 1))
    assert whole.startswith(found)
    assert found == whole or len(found.encode()) > MAX_BYTES - 100
    # No token of a chunk of common characters is left out.
    assert found == whole or character not in "가漢a한 "


@given(st.text(max_size=300), st.integers(1, NEWEST))
def test_milvus_lite_splits_it_into_the_same_tokens(text: str, version: int) -> None:
    from milvus_lite.analyzer.standard import StandardAnalyzer

    assert StandardAnalyzer().tokenize(lexical_text(text, version)) == tokens(text, version)


async def test_bm25_is_estimated_from_what_was_scored() -> None:
    """Compares estimates with the index's scores of texts that the estimate does not know."""
    index, words = MemoryIndex(), ["사과", "배나무", "common", "rare", "other", "more"]
    texts = [" ".join(words[number % 6] for number in range(start, start + 4 + start % 3)) for start in range(40)]
    await index.create("c", 2)
    keys = np.arange(len(texts))
    await index.upsert("c", keys, keys, np.ones((len(texts), 2), np.float32), texts)
    (hits,) = await index.search_lexical("c", ["사과 rare common"], 40)
    exact = {hit.chunk_id: hit.score for hit in hits}
    known, unknown = list(exact)[::2], list(exact)[1::2]
    scored = [(texts[key], exact[key]) for key in known]
    estimated = estimated_bm25("사과 rare common", [texts[key] for key in unknown], scored, NEWEST)
    assert np.allclose(estimated, [exact[key] for key in unknown], rtol=0.05)
    assert estimated_bm25("사과", ["배나무", "사과"], scored, NEWEST)[0] == 0
    assert estimated_bm25("unheard", ["unheard of"], scored, NEWEST)[0] > 0
    assert estimated_bm25("사과", ["사과"], [], NEWEST)[0] > 0
    assert estimated_bm25("!", ["사과"], [], NEWEST) == [0.0]
