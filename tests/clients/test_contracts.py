"""Sends each row of the contracts of other APIs to a server with API keys."""

import importlib
import pkgutil
from dataclasses import replace
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests import clients
from tests.table.frame import Row, Runner

MODULES = sorted(module.name for module in pkgutil.iter_modules(clients.__path__) if module.name.endswith("_rows"))
ROWS: list[Row] = [row for name in MODULES for row in importlib.import_module(f"tests.clients.{name}").ROWS]


@pytest.fixture(scope="module")
def shared() -> dict[str, dict[str, Any]]:
    """The names of bots that only read rows use, by what their rows are given."""
    return {}


def new_names(http: httpx.Client, row: Row) -> dict[str, Any]:
    names = {"bot": str(uuid4()), "row": f"r{uuid4().hex}"}
    body = {"chat_bot_id": names["bot"], "bot_name": row.name, "collection_name": names["row"]}
    assert http.post("/collection/create", json=body).status_code == 201
    return names


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.kind}: {row.name}")
def test_row_has_the_answer_that_the_client_reads(
    http: httpx.Client, shared: dict[str, dict[str, Any]], row: Row
) -> None:
    changes = bool(row.then) or row.call.method == "DELETE"
    if changes:
        Runner(http, new_names(http, row)).run(row)
        return
    given = repr(row.given)
    if given in shared:
        row = replace(row, given=())
    names = shared.setdefault(given, {}) or new_names(http, row)
    shared[given] = names
    Runner(http, names).run(row)


def test_there_are_enough_rows_and_each_is_unique() -> None:
    names = [(row.kind, row.name) for row in ROWS]
    assert len(set(names)) == len(names) >= 60
