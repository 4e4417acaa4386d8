"""What ListingPort promises, held against plain memory and PostgreSQL alike."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any, get_args
from uuid import uuid4

import pytest

from app.core.write.write import Write
from app.schemas.filter_tree import Column, Condition, Filter, MetadataPath, Normalized, Or
from app.schemas.listing import FACET_CHARS, Facets, FacetValue, ListedDocument, Order, Place, SortKey
from app.schemas.rows import Bot
from tests.contract.records import Record, document

TITLES = ["b", "a", "B", "가", "a", "\U0001f600", "\uffee", "Z", "é", "a b", "10", "9"]
"""In no locale's order; one is there twice, and two are in another order as UTF-16."""
ORDERS = [Order(key, descending) for key in get_args(SortKey) for descending in (False, True)]


async def filled(record: Record, bot: Bot) -> list[int]:
    """Documents in several requests, so that some have the same created_at, and a few changes. Returns their ids."""
    other = await record.bot()
    writes = [
        Write(bot, document("x", title=title, tags=[title, "all"], metadata={"n": number}))
        for number, title in enumerate(TITLES)
    ]
    await record.written(*writes[:5], Write(other, document("y")))
    await record.written(*writes[5:])
    ids = [write.doc_id for write in writes if write.doc_id]
    await record.documents.patch(bot.bot_id, ids[3], {"title": "aa"}, {}, [])
    await record.documents.delete(bot.bot_id, [ids[7]])
    return [one for one in ids if one != ids[7]]


async def walked(record: Record, bot: Bot, where: Filter | None, order: Order, size: int) -> list[ListedDocument]:
    found: list[ListedDocument] = []
    after: Place | None = None
    while page := await record.listing.query(bot.bot_id, where, order, after, size):
        assert len(page) <= size
        found += page
        after = page[-1].place
    return found


@pytest.mark.parametrize("order", ORDERS, ids=str)
async def test_pages_have_each_document_once_and_in_order(record: Record, order: Order) -> None:
    bot = await record.bot()
    ids = await filled(record, bot)
    for size in (1, 3, 100):
        found = await walked(record, bot, None, order, size)
        assert sorted(one.document.doc_id for one in found) == ids
        places = [(getattr(one.document, order.key), one.document.doc_id) for one in found]
        assert [one.place for one in found] == places
        assert places == sorted(places, reverse=order.descending)


@pytest.mark.parametrize("descending", [False, True])
async def test_documents_without_an_external_id_come_last(record: Record, descending: bool) -> None:
    bot = await record.bot()
    names = ["b", None, "B", None, None, "가", "a"]
    for name in names:
        await record.written(Write(bot, document("x", external_id=name)))
    order = Order("external_id", descending)
    for size in (1, 2, 4, 100):
        found = await walked(record, bot, None, order, size)
        values = [one.document.external_id for one in found]
        assert values == [*sorted(filter(None, names), reverse=descending), None, None, None]
        ids = [one.document.doc_id for one in found[4:]]
        assert ids == sorted(ids, reverse=descending)


async def test_a_filter(record: Record) -> None:
    bot = await record.bot()
    ids = await filled(record, bot)
    few: list[tuple[Filter, int]] = [
        (Condition("in", MetadataPath(("n",)), [1, 2, 3, 7]), 3),
        (Condition("contains", Column("tags"), "all"), len(ids)),
        (Or((Condition("eq", Column("title"), "aa"), Condition("eq", Column("title"), "'"))), 1),
        (Condition("eq", Column("title"), "nothing"), 0),
    ]
    for where, count in few:
        found = await walked(record, bot, where, Order("title"), 2)
        assert len(found) == await record.listing.count(bot.bot_id, where) == count
    assert await record.listing.count(bot.bot_id, None) == len(ids)


async def test_no_documents(record: Record) -> None:
    bot = await record.bot()
    for bot_id in (bot.bot_id, uuid4()):
        assert list(await record.listing.query(bot_id, None, Order(), None, 5)) == []
        assert await record.listing.count(bot_id, None) == 0
        assert await record.listing.facets(bot_id, None, Column("tags"), 5) == Facets([], 0, 0)


async def test_a_place_between_documents(record: Record) -> None:
    """The document of the place may be gone, and places are compared to the microsecond."""
    bot = await record.bot()
    ids = await filled(record, bot)
    (first, second) = (await walked(record, bot, None, Order("created_at"), 100))[:2]
    assert isinstance(first.place.value, datetime)
    just_before = Place(first.place.value - timedelta(microseconds=1), 2**62)
    (found,) = await record.listing.query(bot.bot_id, None, Order("created_at"), just_before, 1)
    assert found == first
    await record.documents.delete(bot.bot_id, [ids[0]])
    (found,) = await record.listing.query(bot.bot_id, None, Order("created_at"), first.place, 1)
    assert found == second
    far = Place(datetime(9999, 12, 31, tzinfo=UTC), 1)
    assert list(await record.listing.query(bot.bot_id, None, Order("created_at"), far, 1)) == []


# ------------------------------------------------------------------ facets

VALUES: list[Any] = ["a", "b", "가", "10", 10, 10.0, 2.5, True, False, None, "", "x" * FACET_CHARS]
UNCOUNTED: list[Any] = ["x" * (FACET_CHARS + 1), {"a": 1}, [["a"]], [{"a": 1}], []]


def _as_ten(value: object) -> object:
    """10 and 10.0 are one value: the store gives either of the two."""
    return 10 if value == 10 else value


async def test_values_are_counted(record: Record) -> None:
    bot = await record.bot()
    draw = random.Random(7)
    expected: dict[str, int] = {}
    writes = []
    for _ in range(120):
        held = draw.choice([draw.choice(VALUES), draw.choices(VALUES, k=3), draw.choice(UNCOUNTED)])
        writes.append(Write(bot, document("x", metadata={"k": {"held": held}, "other": 1})))
        for value in {repr(_as_ten(value)) for value in _counted(held)}:
            expected[value] = expected.get(value, 0) + 1
    writes.append(Write(bot, document("x")))
    await record.written(*writes)
    key = MetadataPath(("k", "held"))
    found = await record.listing.facets(bot.bot_id, None, key, 100)
    assert {repr(_as_ten(value)): count for value, count in found.values} == expected
    assert [count for _, count in found.values] == sorted(expected.values(), reverse=True)
    assert found[1:] == (0, 0)
    few = await record.listing.facets(bot.bot_id, None, key, 3)
    assert few.values == found.values[:3]
    assert (few.other_values, few.other_documents) == (
        len(expected) - 3,
        sum(expected.values()) - sum(count for _, count in few.values),
    )


def _counted(held: Any) -> list[Any]:
    items = held if isinstance(held, list) else [held]
    return [one for one in items if not isinstance(one, dict | list) and one != "x" * (FACET_CHARS + 1)]


async def test_tags_and_text_are_counted(record: Record) -> None:
    bot = await record.bot()
    await record.written(
        Write(bot, document("x", tags=["a", "b", "a"], author="m", file_type="pdf")),
        Write(bot, document("x", tags=["a"], author="m")),
        Write(bot, document("x", tags=[], author="n", file_type="txt")),
    )
    on_pdf = Condition("exists", Column("file_type"), True)
    for key, where, expected in (
        (Column("tags"), None, [("a", 2), ("b", 1)]),
        (Column("tags"), on_pdf, [("a", 1), ("b", 1)]),
        (Column("author"), None, [("m", 2), ("n", 1)]),
        (Column("author"), on_pdf, [("m", 1), ("n", 1)]),
        (Column("file_type"), None, [("pdf", 1), ("txt", 1)]),
        (Column("file_path"), None, []),
    ):
        found = await record.listing.facets(bot.bot_id, where, key, 10)
        assert found == Facets([FacetValue(*pair) for pair in expected], 0, 0)
    assert await record.listing.facets(bot.bot_id, None, Column("tags"), 1) == Facets([FacetValue("a", 2)], 1, 1)


async def test_text_that_is_not_in_nfc(record: Record) -> None:
    """As of an older server: sorted, filtered and counted as if it were."""
    bot = await record.bot()
    nfd, nfc = "e\u0301", "é"
    for title in (nfd, "f", "e", nfc):
        metadata = {title: [title]}
        await record.written(Write(bot, document("x", title=title, tags=[title], metadata=metadata)))
    found = await record.listing.query(bot.bot_id, None, Order("title"), None, 10, in_nfc=False)
    assert [one.place.value for one in found] == ["e", "f", nfc, nfc]
    rest = await record.listing.query(bot.bot_id, None, Order("title"), found[2].place, 10, in_nfc=False)
    assert list(rest) == list(found[3:])
    assert await record.listing.count(bot.bot_id, Normalized(Condition("eq", Column("title"), nfc))) == 2
    for key in (Column("tags"), Column("title"), MetadataPath((nfc,))):
        facets = await record.listing.facets(bot.bot_id, None, key, 10, in_nfc=False)
        assert facets.values[0] == FacetValue(nfc, 2)
