"""Sends each row of the table to a server process on embedded stores."""

import importlib
import json
import pkgutil
import socket
from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest

from scripts.own_server import own_folder, served_in
from tests import table
from tests.table.frame import Row, Runner

MODULES = sorted(module.name for module in pkgutil.iter_modules(table.__path__) if module.name.endswith("_rows"))
ROWS: list[Row] = [row for name in MODULES for row in importlib.import_module(f"tests.table.{name}").ROWS]


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with (
        own_folder() as folder,
        served_in(folder) as server,
        httpx.Client(base_url=server.address, timeout=30) as client,
    ):
        yield client


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.kind}: {row.name}")
def test_row_has_the_expected_answer(http: httpx.Client, row: Row) -> None:
    bot = str(uuid4())
    name = f"r{uuid4().hex}"
    body = {"chat_bot_id": bot, "bot_name": row.name, "collection_name": name}
    assert http.post("/collection/create", json=body).status_code == 201
    Runner(http, {"bot": bot, "row": name}).run(row)
    assert http.delete(f"/collection/{bot}").status_code in (200, 404)


@pytest.mark.parametrize("target", ["/data/documents?account_name=한글", "/한글"])
@pytest.mark.parametrize("encoding", ["utf-8", "euc-kr"])
def test_raw_letters_in_a_url_are_rejected(http: httpx.Client, target: str, encoding: str) -> None:
    with socket.create_connection((http.base_url.host, http.base_url.port or 0), timeout=30) as connection:
        connection.sendall(b"GET " + target.encode(encoding) + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        with connection.makefile("rb") as answer:
            head, _, body = answer.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/problem+json" in head
    assert json.loads(body)["code"] == "malformed_request"
    assert "percent-encoded" in json.loads(body)["detail"]


def test_every_row_is_unique() -> None:
    names = [(row.kind, row.name) for row in ROWS]
    assert len(set(names)) == len(names)
