"""The connections that a process keeps ready."""

import asyncio

import pytest

from app.core.stores.postgres import database as postgres
from app.core.stores.postgres.database import Database


async def test_connections_left_alone_go_back_while_others_are_taken(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "IDLE_SECONDS", -1.0)  # Each has been left alone for too long at once.
    rows = await asyncio.gather(*(db.fetch("SELECT $1::int AS n", number) for number in range(50)))
    assert [row["n"] for (row,) in rows] == list(range(50))
    assert db.pool_state()[0] == 0
