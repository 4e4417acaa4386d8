"""Lexical analysis: bigrams, whole words, and the longest text."""

from collections import Counter
from collections.abc import Sequence

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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("제3조", ["3", "제3", "3조"]),
        ("물은", ["물", "물은"]),
        ("한 달", ["한", "달", "한달"]),
        ("5만 원", ["5", "5만", "원", "만원"]),
        ("水を飲む", ["水を", "を飲", "飲む", "水", "飲"]),
        ("ABC-1234", ["abc", "1234", "abc1234"]),
        ("get_user_name", ["get", "user", "nam", "getusernam", "getuser", "usernam"]),
        ("010-1234-5678", ["010", "1234", "5678", "01012345678", "0101234", "12345678"]),
        ("C++, C#, C", ["c\u1429\u1429", "c\u2d4c", "c"]),
        ("3.5%", ["3\ua4f85"]),
        ("01월", ["1", "1월"]),
        ("12,000원", ["12000", "12000원"]),
        ("Straße Café cafe\u0301", ["strass", "caf", "caf"]),
        ("soft\u00adhyphen zero\u200bwidth", ["softhyphen", "zerowidth"]),
        ("batteries battery running runs", ["batteri", "batteri", "run", "run"]),
        ("?! ... \n _", []),
    ],
)
def test_tokens_of_units(text: str, expected: list[str]) -> None:
    assert tokens(text, 2) == expected


@pytest.mark.parametrize(
    ("query", "right", "wrong"),
    [
        ("제3조", "제3조 목적", "제15조 제2항 및 제33조의 3년"),
        ("3월 15일", "3월 15일에 열린다", "15월 3일에 열린다"),
        ("5만원", "회비 5만 원", "회비 7만 원"),
        ("한달", "기간은 한 달", "기간은 두 달"),
        ("물", "물은 100도에서 끓는다", "불은 100도에서 끓는다"),
        ("물이", "물은 100도에서 끓는다", "불이 100도에서 끓는다"),
        ("水", "水を飲む", "酒を飲む"),
        ("iPhone", "iPhone15 케이스", "Galaxy15 케이스"),
        ("iphone 15", "iPhone15 케이스", "iPhone 14 케이스 15개"),
        ("ABC-1234", "품번 ABC1234", "품번 ABD1234"),
        ("abc1234", "품번 ABC-1234", "품번 ABC-1243"),
        ("01012345678", "전화 010-1234-5678", "전화 010-1234-5687"),
        ("get_user_name", "getUserName(id)", "setUserName(id)"),
        ("getusername", "getUserName(id)", "getUserEmail(id)"),
        ("C++", "C++ 과정", "C# 과정"),
        ("C#", "C# 과정", "C 과정"),
        ("C", "C 과정", "C++ 과정"),
        ("strasse", "Hauptstr. oder Straße", "Hauptstr. oder Gasse"),
        ("동시성", "동\u00ad시\u200b성 제어", "동기 시각 제어"),
    ],
)
async def test_the_same_thing_in_another_way(query: str, right: str, wrong: str) -> None:
    index, texts = MemoryIndex(), [wrong, right, "그 밖의 글", "another text"]
    await index.create("c", 2)
    keys = np.arange(len(texts))
    await index.upsert("c", keys, keys, np.ones((len(texts), 2), np.float32), texts, analyzer_version=2)
    (hits,) = await index.search_lexical("c", [query], 4, analyzer_version=2)
    assert hits
    assert hits[0].chunk_id == 1
    assert len(hits) < 2 or hits[0].score > hits[1].score


@pytest.mark.parametrize("character", ["가", "漢", "\U00020000", "\ufdfa", "\u3300", "\ufdfc", "a", "한 "])
@pytest.mark.parametrize("version", [1, 2])
def test_the_longest_chunk_fits(character: str, version: int) -> None:
    text = (character * 8192)[:8192]
    found = lexical_text(text, version)
    assert len(found.encode()) <= MAX_BYTES
    whole = " ".join(tokens(text, version))
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
    estimated = estimates("사과 rare common", [texts[key] for key in unknown], scored)
    assert np.allclose(estimated, [exact[key] for key in unknown], rtol=0.05)
    assert estimates("사과", ["배나무", "사과"], scored)[0] == 0
    assert estimates("unheard", ["unheard of"], scored)[0] > 0
    assert estimates("사과", ["사과"], [])[0] > 0
    assert estimates("!", ["사과"], []) == [0.0]


def estimates(query: str, texts: Sequence[str], scored: Sequence[tuple[str, float]]) -> list[float]:
    def counted(text: str) -> Counter[str]:
        return Counter(tokens(text, NEWEST))

    return estimated_bm25(counted(query), [*map(counted, texts)], [(counted(text), score) for text, score in scored])
