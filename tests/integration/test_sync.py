"""Synchronizations that are cut off, and the command."""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from app import sync_command
from app.core.services import Services
from app.core.stores.postgres.database import Database
from app.schemas.rows import NewChunk, NewDocument
from app.sync_command import DocumentFile, sync
from app.utils.errors import InvalidInput
from app.utils.stopwatch import Stopwatch
from tests.conftest import BotClient
from tests.integration.conftest import Crash, FaultyIndex, assert_at_rest


def document(name: str, text: str) -> NewDocument:
    return NewDocument(name, [NewChunk(0, text)], external_id=name)


async def stored(services: Services, bot_id: UUID) -> dict[str | None, str]:
    documents, _ = await services.documents.list(bot_id, None, 0, 1000)
    found = {}
    for one in documents:
        _, chunks, _ = await services.documents.get(bot_id, None, one.doc_id, 0, 10)
        found[one.external_id] = chunks[0].text
    return found


async def synchronize(services: Services, bot_id: UUID, texts: dict[str, str]) -> None:
    """In batches of two."""
    session = await services.sync.start(bot_id, None)
    documents = [(bot_id, document(name, text)) for name, text in texts.items()]
    for first in range(0, len(documents), 2):
        await services.sync.batch(bot_id, None, session, documents[first : first + 2], Stopwatch())
    await services.sync.finish(bot_id, None, session, delete_missing=True)


@pytest.mark.parametrize("point", ["sync.after_found", "write.before_t2", "sync.before_delete", "sync.after_delete"])
async def test_killed_and_run_again(
    bot: BotClient,
    services: Services,
    at: Callable[..., asyncio.Event],
    monkeypatch: pytest.MonkeyPatch,
    db: Database,
    index: FaultyIndex,
    point: str,
) -> None:
    monkeypatch.setattr(services.sync, "_part", 2)
    before = {name: f"old {name}" for name in "abcdefg"}
    await synchronize(services, bot.bot_id, before)
    after = {"a": "old a", "b": "new b", "h": "new h"}
    reached = 0

    async def die() -> None:
        nonlocal reached
        reached += 1
        if reached == (1 if point == "write.before_t2" else 2):
            raise Crash

    at(point, die, times=2)
    with suppress(Crash):
        await synchronize(services, bot.bot_id, after)
    assert reached
    left = await stored(services, bot.bot_id)
    if point != "sync.after_delete" and point != "sync.before_delete":
        assert left.keys() >= before.keys(), "nothing is deleted before the end"
    await db.execute("UPDATE sync_sessions SET lease_until = now() - interval '1 second'")
    await db.execute("UPDATE sagas SET lease_until = now() - interval '1 hour'")
    await synchronize(services, bot.bot_id, after)
    assert await stored(services, bot.bot_id) == after
    await assert_at_rest(db, index)


async def test_a_session_that_was_taken_over_deletes_nothing(bot: BotClient, services: Services, db: Database) -> None:
    await synchronize(services, bot.bot_id, {"a": "a", "b": "b"})
    slow = await services.sync.start(bot.bot_id, None)
    await db.execute("UPDATE sync_sessions SET lease_until = now() - interval '1 second'")
    await synchronize(services, bot.bot_id, {"a": "a", "c": "c"})
    with pytest.raises(Exception, match="another one has begun"):
        await services.sync.finish(bot.bot_id, None, slow, delete_missing=True)
    assert await stored(services, bot.bot_id) == {"a": "a", "c": "c"}


# ------------------------------------------------------------------ the command


def line(name: str | None, text: str = "text", **document: Any) -> str:
    named = {} if name is None else {"external_id": name}
    body = {"document": {"title": "t", **named, **document}, "chunks": [{"chunk_index": 0, "text": text}]}
    return json.dumps(body, ensure_ascii=False)


def file_of(folder: Path, *lines: str) -> Path:
    path = folder / "documents.ndjson"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def run(services: Services, bot: BotClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command with the services of this test, and returns (exit code, last line)."""
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def opened(_settings: object) -> Any:
        yield services

    monkeypatch.setattr(sync_command, "open_services", opened)

    async def command(path: Path, *, delete_missing: bool = True, dry_run: bool = False) -> tuple[int, str]:
        from app.config import Settings

        settings = Settings(_env_file=None, auth_disabled=True)
        failed = await sync(settings, path, bot.bot_id, delete_missing=delete_missing, dry_run=dry_run)
        return failed, capsys.readouterr().out.strip().splitlines()[-1]

    return command


async def test_the_command(run: Any, bot: BotClient, services: Services, tmp_path: Path) -> None:
    first = file_of(tmp_path, line("a"), line("b"), "", line("가"))
    planned = "would be: 3 created, 0 replaced, 0 unchanged, 0 deleted, 0 failed"
    assert await run(first, dry_run=True) == (0, planned)
    assert await stored(services, bot.bot_id) == {}
    assert await run(first) == (0, "3 created, 0 replaced, 0 unchanged, 0 deleted, 0 failed")
    assert await run(first) == (0, "0 created, 0 replaced, 3 unchanged, 0 deleted, 0 failed")
    second = file_of(tmp_path, line("a"), line("b", "new"), line("c", chat_bot_id=str(bot.bot_id)))
    expected = "1 created, 1 replaced, 1 unchanged, 1 deleted, 0 failed"
    assert await run(second, dry_run=True) == (0, f"would be: {expected}")
    assert await run(second, delete_missing=False) == (0, "1 created, 1 replaced, 1 unchanged, 0 deleted, 0 failed")
    assert await run(second) == (0, "0 created, 0 replaced, 3 unchanged, 1 deleted, 0 failed")
    assert await stored(services, bot.bot_id) == {"a": "text", "b": "new", "c": "text"}


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([line("a"), "{"], "line 2: is not JSON in UTF-8"),
        ([line(None)], "line 1: document.external_id: is missing"),
        ([line("a"), line("b"), line("a")], "line 3: has the external_id of line 1"),
        ([line("e\u0301"), line("é")], "line 2: has the external_id of line 1"),
        ([line("a", "")], "line 1: chunks.0.text"),
        ([line("a", wrong=1)], "line 1: document.wrong"),
        (["[]"], "line 1: "),
        ([line("a", chat_bot_id=str(UUID(int=7)))], "line 1: document.chat_bot_id: is another bot"),
    ],
)
async def test_a_file_that_is_not_valid_changes_nothing(tmp_path: Path, lines: list[str], told: str) -> None:
    with pytest.raises(InvalidInput, match="Nothing was done") as caught:
        DocumentFile(file_of(tmp_path, *lines), UUID(int=1)).check()
    assert told in caught.value.detail
    with pytest.raises(InvalidInput, match="cannot be read"):
        DocumentFile(tmp_path / "none", UUID(int=1)).check()
