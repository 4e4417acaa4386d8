"""Compares filtered searches with the reference in plain Python: in every plan and mode, and right after a PATCH."""

import asyncio
from typing import Any
from uuid import UUID

import httpx
import pytest

from app.core.search.query import Mode, Query
from app.core.services import Services
from app.core.stores.postgres.database import Database
from app.schemas.filter_tree import Filter
from app.utils.stopwatch import Stopwatch
from tests.conftest import BotClient
from tests.filter_reference import matches
from tests.integration.test_filters_sql import STRINGS, Maker

SEED = 7
FILTERS = 2000
DOCUMENTS = 40
AT_ONCE = 8
MODES: tuple[Mode, ...] = ("dense", "lexical", "hybrid")
PLANS = {
    "documents_first": {"MAX_PREFILTER_IDS": 1000, "SLICE_IDS": 10_000},
    "search_first": {"MAX_PREFILTER_IDS": 0, "SLICE_IDS": 10_000},
    "documents_in_slices": {"MAX_PREFILTER_IDS": 0, "SLICE_IDS": 3},
}
ROWS = """
SELECT d.*, c.page_number FROM documents d JOIN document_chunks c ON c.bot_id = d.bot_id AND c.doc_id = d.doc_id
WHERE d.bot_id = $1 AND c.bot_id = $1 ORDER BY d.doc_id
"""
WORD = "낱말"
"""In every chunk and every query, so that lexical search finds every document."""


@pytest.fixture(params=PLANS)
def plan(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    for setting, value in PLANS[name].items():
        monkeypatch.setattr(f"app.core.search.filter_plan.{setting}", value)
    if name == "documents_in_slices":
        # As if Milvus returned nothing beyond the first hits, so that post-filtering cannot find enough.
        monkeypatch.setattr("app.core.search.retrieval.SPARE_HITS", 0)
        monkeypatch.setattr("app.core.search.retrieval.MAX_TOP_K", 10)
        monkeypatch.setattr("app.core.search.search.HYBRID_CANDIDATES", 10)
    return name


async def filled(bot: BotClient, db: Database, maker: Maker) -> list[dict[str, Any]]:
    """Inserts random documents of one chunk each. Returns their rows in PostgreSQL."""
    for number in range(DOCUMENTS):
        made = maker.document(number)
        body = bot.body(
            f"{WORD} {number}",
            title=made["title"].strip("\x01\x1f\x7f\n\t\u2028 ") or "t",
            metadata=made["metadata"],
            tags=sorted({tag for tag in made["tags"] if tag.strip()}),
            **{name: made[name] for name in ("file_path", "file_type", "author")},
        )
        body["chunks"] = [{"chunk_index": 0, "text": f"{WORD} {number}", "page_number": made["page_number"]}]
        assert (await bot.http.post("/data/insert", json=body)).status_code == 201
    return await rows(db, bot.bot_id)


async def rows(db: Database, bot_id: UUID) -> list[dict[str, Any]]:
    return [dict(row) for row in await db.fetch(ROWS, bot_id)]


async def found(services: Services, bot: BotClient, where: Filter, mode: Mode, limit: int) -> tuple[set[int], str]:
    query = Query(bot.bot_id, None, [f"{WORD} 7"], limit, mode=mode, where=where)
    answer = await services.search.query(query, Stopwatch())
    return {result.chunk.doc_id for result in answer.results[0]}, str(answer.trace.plan)


async def test_every_plan_and_mode_agrees_with_the_reference(
    bot: BotClient, services: Services, db: Database, plan: str
) -> None:
    maker = Maker(SEED)
    documents = await filled(bot, db, maker)
    limit = 10 if plan == "documents_in_slices" else DOCUMENTS
    plans: set[str] = set()
    sizes: list[int] = []

    async def check(number: int, where: Filter) -> None:
        passing = {document["doc_id"] for document in documents if matches(where, document)}
        mode = MODES[number % len(MODES)]
        got, used = await found(services, bot, where, mode, limit)
        told = f"seed {SEED}, filter {number}, {mode}: {where}"
        assert got <= passing, told
        assert len(got) == min(limit, len(passing)), told
        plans.add(used)
        sizes.append(len(passing))

    count = FILTERS // 5 if plan == "documents_in_slices" else FILTERS
    filters = [maker.filter(documents) for _ in range(count)]
    for start in range(0, count, AT_ONCE):
        await asyncio.gather(*(check(start + n, where) for n, where in enumerate(filters[start : start + AT_ONCE])))
    assert {plan, "nothing_matches"} <= plans
    assert sum(0 < size < DOCUMENTS for size in sizes) > count / 5  # Enough filters pass some documents and not others.


@pytest.mark.parametrize("mode", MODES)
async def test_a_patch_counts_at_once(bot: BotClient, plan: str, mode: Mode) -> None:
    ids = [await bot.insert(f"{WORD} {number}", metadata={"turn": -1}) for number in range(12)]
    for turn, doc_id in enumerate(ids):
        answer = await bot.http.patch(
            f"/data/document/{doc_id}/metadata",
            json={"chat_bot_id": str(bot.bot_id), "metadata_updates": {"turn": turn, "kind": {"of": "patched"}}},
        )
        assert answer.status_code == 200
        patched = {"type": "eq", "key": "metadata.kind.of", "value": "patched"}
        of_turn = {"type": "eq", "key": "metadata.turn", "value": turn}
        untouched = {"type": "eq", "key": "metadata.turn", "value": -1}

        async def of(condition: dict[str, Any]) -> set[object]:
            return {one["doc_id"] for one in await bot.search(f"{WORD} 7", mode=mode, limit=10, filter=condition)}

        assert await of(of_turn) == {doc_id}
        assert len(await of(patched)) == min(10, turn + 1)
        assert await of(untouched) <= set(ids[turn + 1 :])


HOSTILE = [
    *STRINGS, "' or 1==1", "x' OR '1'='1", "\" or 1==1 or \"", "doc_id > 0", "1) or (1=1", "]} or true", "\x7f",
    "\u0000",    "\ud800", "a" * 5000, "$$", "--", "*/ true /*", "\\'", "{{}}", "%(x)s", "${jndi}", "\u202e",
]  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
async def test_hostile_keys_and_values_do_not_widen_a_filter(bot: BotClient, plan: str, mode: Mode) -> None:
    await bot.insert(f"{WORD} 7", metadata={"secret": "s3cret"}, tags=["s3cret"], author="s3cret")
    statuses: set[int] = set()
    for text in HOSTILE:
        for condition in (
            {"type": "eq", "key": f"metadata.{text}", "value": "x"},
            {"type": "exists", "key": f"metadata.secret.{text}"},
            {"type": "eq", "key": text, "value": "s3cret"},
            {"type": "eq", "key": "metadata.secret", "value": text},
            {"type": "in", "key": "author", "value": [text]},
            {"type": "contains", "key": "tags", "value": text},
            {"type": "eq", "key": "metadata.secret", "value": {text: [text]}},
            {"type": "or", "filters": [{"type": "eq", "key": "title", "value": text}] * 3},
        ):
            answer = await _post(bot, {"query_text": f"{WORD} 7", "mode": mode, "filter": condition})
            assert answer.status_code in (200, 422), condition
            statuses.add(answer.status_code)
            if answer.status_code == 200:
                assert answer.json()["results"] == [], condition
    deep: dict[str, Any] = {"type": "eq", "key": "title", "value": "x"}
    for _ in range(200):
        deep = {"type": "not", "filter": deep}
    assert (await _post(bot, {"query_text": WORD, "mode": mode, "filter": deep})).status_code == 422
    assert statuses == {200, 422}


async def _post(bot: BotClient, body: dict[str, Any]) -> httpx.Response:
    import json

    content = json.dumps({"chat_bot_id": str(bot.bot_id), **body}).encode()  # With escapes, as lone surrogates need.
    return await bot.http.post("/search/query", content=content, headers={"Content-Type": "application/json"})


@pytest.mark.parametrize(
    "condition",
    [
        '{"type": "eq", "key": "metadata.a.b", "value": "4711"}',
        '{"type": "contains", "key": "metadata.list", "value": 4711}',
        '{"type": "contains", "key": "tags", "value": "t4711"}',
        '{"type": "gte", "key": "created_at", "value": "2099-01-01T00:00:00Z"}',
    ],
)
async def test_the_partitions_indexes_serve_filters(bot: BotClient, db: Database, condition: str) -> None:
    """The server's own statement, on a partition that the trigger created."""
    from pydantic import TypeAdapter

    from app.core.stores.postgres.documents import filtered
    from app.models.filters import BoundedFilter as FilterModel
    from app.schemas.queries import SQL

    await db.execute(
        """
        INSERT INTO documents (bot_id, doc_id, generation, title, tags, metadata, chunk_count, chunk_span)
        SELECT $1, i, i, 't', ARRAY['t' || i],
               jsonb_build_object('a', jsonb_build_object('b', i::text), 'list', jsonb_build_array(i)), 1, 1
        FROM generate_series(1, 20000) i
        """,
        bot.bot_id,
    )
    await db.execute("ANALYZE documents")
    where = TypeAdapter(FilterModel).validate_json(condition).to_core()  # type: ignore[attr-defined]
    sql, params = filtered(SQL["matching_documents"], where, first_param=4)
    plan = "\n".join(row[0] for row in await db.fetch(f"EXPLAIN {sql}", bot.bot_id, 0, 1001, *params))
    name = next(name for name in ("metadata", "tags", "created_at") if name in condition)
    assert f"documents_{bot.bot_id.hex}_{name}_idx" in plan, plan
