"""Coverage by hand-worked numbers, and confidence that never rises."""

from math import log

import pytest

from app.core.search.confidence import SHIPPED, likelihood, never_rising
from app.core.search.coverage import MAX_TERMS, UNSEEN_CHUNKS, DocumentFrequencies, Match, TermCounter, terms
from app.core.search.relevance import ENTRY_BYTES, _differ
from app.schemas.operation_rows import BotSize, Calibration, TermCounts
from app.utils.lru_cache import LruCache

CHUNKS = ("router red", "router blue", "cable", "router")


def idf(frequency: int, chunks: int) -> float:
    return log(1 + (chunks + UNSEEN_CHUNKS - frequency + 0.5) / (frequency + 0.5))


def frequencies(*texts: str) -> DocumentFrequencies:
    return DocumentFrequencies(counts(*texts))


def counts(*texts: str) -> TermCounts:
    counter = TermCounter()
    for text in texts:
        counter.add(text, 1)
    return counter.result()


def test_coverage_is_the_share_of_the_query_s_idf() -> None:
    query = frequencies(*CHUNKS).query("the red router", 1)
    router, red, the, never = idf(3, 4), idf(1, 4), idf(0, 4), idf(0, 4)
    assert never == log(1 + 9.5 / 0.5)
    found = query.match(terms("A router.", 1))
    assert (found.covered, found.missing) == pytest.approx((router / never, (red + the) / never))
    assert found.coverage == pytest.approx(router / (router + red + the))
    assert query.match(terms("the router is red", 1)).coverage == pytest.approx(1)
    assert query.match(terms("blue cable", 1)) == Match(0.0, pytest.approx((router + red + the) / never))
    assert query.match(terms("?!", 1)).coverage == 0


def test_a_word_counts_once_in_a_query_and_in_a_chunk() -> None:
    counted = frequencies(*CHUNKS)
    once, twice = counted.query("red router", 1), counted.query("red red ROUTER red", 1)
    assert once.match(terms("red", 1)) == pytest.approx(twice.match(terms("red red red", 1)))


def test_a_query_without_words() -> None:
    assert frequencies(*CHUNKS).query("?!", 1).match(terms("router", 1)) == Match(0.0, 0.0)
    assert Match(0.0, 0.0).coverage == 0


def test_a_bot_without_words() -> None:
    found = frequencies("?!").query("red router", 1).match(terms("red", 1))
    assert found == Match(pytest.approx(1), pytest.approx(1))


def test_hangul_is_covered_by_pairs() -> None:
    counted = frequencies("경복궁은 화요일에 문을 닫는다.", "남산에는 케이블카가 있다.")
    coverage = counted.query("경복궁의 휴일은?", 1).match(terms("경복궁은 화요일에 문을 닫는다.", 1)).coverage
    rare, unknown = idf(1, 2), idf(0, 2)  # 경복, 복궁 / 궁의, 휴일, 일은
    assert coverage == pytest.approx(2 * rare / (2 * rare + 3 * unknown))


def test_the_counts_are_bounded_and_keep_the_most_frequent_terms() -> None:
    rare = [f"w{number}" for number in range(MAX_TERMS + 100)]
    counted = counts(" ".join(rare), "often", "often never")
    assert counted.sampled == 3
    assert len(counted.terms) == 6 * MAX_TERMS
    query = DocumentFrequencies(counted).query("often", 1)
    assert query.weights == pytest.approx([idf(2, 3) / idf(0, 3)])


def test_no_chunks() -> None:
    assert counts() == TermCounts(0, b"")
    assert frequencies().query("red", 1).weights == [1.0]


def test_the_likelihood_is_a_logistic_regression() -> None:
    calibration = Calibration((-3.0, 4.0, -0.5, 0.25, 2.0), (-2.0, 3.0, -0.5, 0.25))
    match = Match(covered=2.0, missing=2.0)
    # -3 + 4 * 0.5 - 0.5 * 2 + 0.25 * 2 + 2 * 0.75 = 0, and -2 + 1.5 - 1 + 0.5 = -1
    assert likelihood(calibration, match, 0.75) == pytest.approx(0.5)
    assert likelihood(calibration, match, None) == pytest.approx(1 / (1 + 2.718281828))
    assert likelihood(Calibration((900.0,) * 5, (-900.0,) * 4), match, 1.0) == pytest.approx(1)
    assert likelihood(Calibration((900.0,) * 5, (-900.0,) * 4), match, None) == pytest.approx(0, abs=1e-9)


def test_confidence_never_rises_down_the_ranking() -> None:
    assert never_rising([0.2, 0.7, 0.1, 0.4, 0.3]) == [0.7, 0.7, 0.4, 0.4, 0.3]
    assert never_rising([]) == []


@pytest.mark.parametrize("calibration", SHIPPED.values())
def test_shipped_coefficients_have_the_signs_of_their_meaning(calibration: Calibration) -> None:
    """More of the query covered never lowers the confidence, and more of it missing never raises it."""
    for coefficients in (calibration.with_similarity, calibration.words_only):
        _, coverage, missing, covered, *similarity = coefficients
        assert coverage > 0
        assert covered > 0
        assert missing < 0
        assert all(one >= 0 for one in similarity)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((0, 0), (1, 1), True),
        ((10, 1), (14, 1), False),
        ((10, 1), (15, 1), True),
        ((15, 1), (10, 1), True),
        ((15, 1), (11, 1), False),
        ((300, 40), (513, 70), True),
        ((513, 100), (513, 149), False),
        ((513, 100), (513, 150), True),
        ((513, 100), (513, 100), False),
        ((513, 100), (300, 100), True),
    ],
)
def test_when_a_bot_differs_from_its_sample(one: tuple[int, int], other: tuple[int, int], expected: bool) -> None:
    """(chunks counted up to 513, pages): up to 512 chunks are compared, of larger bots the pages."""
    assert _differ(BotSize(*one), BotSize(*other)) is expected


def test_the_cache_evicts_what_was_used_longest_ago() -> None:
    sizes = {"more": 300, "huge": 10_000}
    cache = LruCache[str, str](3 * (ENTRY_BYTES + 100), lambda value: ENTRY_BYTES + sizes.get(value, 100))
    for key in "abc":
        cache.put(key, key)
    assert cache.get("a") == "a"
    cache.put("d", "d")
    assert [cache.get(key) for key in "abcd"] == ["a", None, "c", "d"]
    cache.put("c", "more")
    assert [cache.get(key) for key in "acd"] == [None, "more", "d"]
    cache.put("huge", "huge")
    assert (cache.get("huge"), cache.bytes) == (None, 0)
