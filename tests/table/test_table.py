"""The table's rows, each against one server in a process of its own, on embedded stores."""

import importlib
import pkgutil
from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest

from scripts.own_server import own_server
from tests import table
from tests.table.frame import Row, Runner

MODULES = sorted(module.name for module in pkgutil.iter_modules(table.__path__) if module.name.endswith("_rows"))
ROWS: list[Row] = [row for name in MODULES for row in importlib.import_module(f"tests.table.{name}").ROWS]


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with own_server() as address, httpx.Client(base_url=address, timeout=30) as client:
        yield client


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.kind}: {row.name}")
def test_row(http: httpx.Client, row: Row) -> None:
    bot = str(uuid4())
    name = f"r{uuid4().hex}"
    body = {"chat_bot_id": bot, "bot_name": row.name, "collection_name": name}
    assert http.post("/collection/create", json=body).status_code == 201
    Runner(http, {"bot": bot, "row": name}).run(row)
    assert http.delete(f"/collection/{bot}").status_code in (200, 404)


def test_no_row_stands_twice() -> None:
    names = [(row.kind, row.name) for row in ROWS]
    assert len(set(names)) == len(names)
