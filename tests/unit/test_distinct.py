"""Chunks of equal text collapse into the best one."""

import pytest

from app.core.search.distinct import MAX_NAMED, distinct_ranking, text_key
from app.core.search.fusion import RankedChunk
from app.schemas.rows import CurrentChunk


def ranking(*chunk_ids: int) -> list[RankedChunk]:
    return [RankedChunk(chunk_id, 1.0, 1.0, None) for chunk_id in chunk_ids]


@pytest.mark.parametrize(
    "same",
    ["a b", " a  b\n", "a\u00a0b", "a\u3000b", "\uff41 \uff42", "a\t\r\nb", "a \u2003 b"],
)
def test_equal_after_nfkc_and_white_space(same: str) -> None:
    assert text_key(same) == text_key("a b")


@pytest.mark.parametrize("other", ["ab", "A b", "a b.", "a-b", ""])
def test_what_differs_otherwise_is_not_equal(other: str) -> None:
    assert text_key(other) != text_key("a b")


def test_decomposed_hangul_equals_composed() -> None:
    assert text_key("\u1112\u1161\u11ab\u1100\u1173\u11af") == text_key("한글")


def test_the_best_of_each_text_names_the_others() -> None:
    keys = {1: b"x", 2: b"x", 3: b"y", 4: b"x"}
    found = distinct_ranking(ranking(2, 3, 1, 4, 9), keys, None)  # 9 was replaced: it has no key.
    assert [one.chunk_id for one in found.best] == [2, 3, 9]
    rows = {key: CurrentChunk(key * 10, None) for key in (1, 2, 3, 4, 9)}
    assert found.duplicates(2, rows).chunks == [(10, 1), (40, 4)]
    assert found.duplicates(3, rows).count == found.duplicates(9, rows).count == 0


def test_many_duplicates_are_counted() -> None:
    keys = dict.fromkeys(range(100), b"x")
    found = distinct_ranking(ranking(*range(100)), keys, None)
    duplicates = found.duplicates(0, {key: CurrentChunk(1, None) for key in keys})
    assert duplicates.count == 99
    assert [chunk_id for _, chunk_id in duplicates.chunks] == list(range(1, 1 + MAX_NAMED))


def test_a_document_that_is_shown_does_not_take_a_text_from_another() -> None:
    """Chunk 2 has the text of chunk 3, but its document is shown already: chunk 3 is shown for the text."""
    keys = {1: b"x", 2: b"y", 3: b"y"}
    found = distinct_ranking(ranking(1, 2, 3), keys, {1: 10, 2: 10, 3: 11})
    assert [one.chunk_id for one in found.best] == [1, 3]
    assert found.duplicates(3, {2: CurrentChunk(10, None)}).chunks == [(10, 2)]
