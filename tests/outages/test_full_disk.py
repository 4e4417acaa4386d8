"""The disk of the embedded stores is full for a while: reads go on, and nothing that was acknowledged is lost."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import httpx
import pytest

from tests.conftest import BotClient, register, until
from tests.outages.conftest import ROOT, served
from tests.small_disk import SmallDisk, disk

__all__ = ["disk"]

BACK_SECONDS = 90.0


@pytest.fixture
def environment(disk: SmallDisk) -> dict[str, str]:
    return os.environ | {
        "DATA_DIR": str(disk.folder),
        "SAGA_LEASE_SECONDS": "4",
        "RECOVERY_INTERVAL_SECONDS": "0.2",
        "LOG_FORMAT": "json",
    }


@pytest.fixture
async def http(environment: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    async with served(environment) as (client, _):
        yield client


class Writer:
    """Inserts documents, and remembers those that were acknowledged."""

    def __init__(self, bot: BotClient) -> None:
        self.bot = bot
        self.acknowledged: dict[int, str] = {}
        self._number = 0

    async def insert(self, text: str) -> httpx.Response:
        answer = await self.bot.http.post("/data/insert", json=self.bot.body(text))
        if answer.status_code == 201:
            self.acknowledged[answer.json()["doc_id"]] = text
        return answer

    async def insert_small(self) -> httpx.Response:
        self._number += 1
        return await self.insert(f"word{self._number} and more")

    async def is_written(self) -> bool:
        return (await self.insert_small()).status_code == 201

    async def check(self) -> None:
        """Each acknowledged document can be read, and is found by its own text."""
        for doc_id, text in self.acknowledged.items():
            params = {"chat_bot_id": str(self.bot.bot_id)}
            answer = await self.bot.http.get(f"/data/document/{doc_id}", params=params)
            assert [chunk["text"] for chunk in answer.json()["chunks"]] == [text]
            found = await self.bot.search(text[:200], limit=50, mode="hybrid")
            assert text in {result["chunk_text"] for result in found}


def check_refusal(answer: httpx.Response, disk: SmallDisk) -> None:
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["Retry-After"]) >= 1
    assert str(disk.folder) not in answer.text
    assert "Errno" not in answer.text


async def verify(environment: dict[str, str]) -> tuple[int | None, str]:
    command = [sys.executable, "-m", "app.cli", "verify"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environment, stdout=pipe)
    output, _ = await process.communicate()
    return process.returncode, output.decode().splitlines()[-1]


async def test_writes_are_refused_only_while_the_disk_is_full(
    http: httpx.AsyncClient, disk: SmallDisk, environment: dict[str, str]
) -> None:
    writer = Writer(await register(http))
    for _ in range(20):
        assert (await writer.insert_small()).status_code == 201
    disk.fill()
    async with asyncio.timeout(60):
        while (answer := await writer.insert_small()).status_code == 201:
            pass
    check_refusal(answer, disk)
    assert answer.json()["code"] == "storage_full"

    async def is_degraded() -> bool:
        return bool((await http.get("/health")).json()["status"] == "degraded")

    await until(is_degraded, seconds=BACK_SECONDS)
    for path in ("/health", "/health/ready"):
        report = await http.get(path)
        assert (report.status_code, report.json()["status"]) == (200, "degraded")
        assert "full" in {dependency["status"] for dependency in report.json()["dependencies"].values()}
    await writer.check()
    disk.free()
    await until(writer.is_written, seconds=BACK_SECONDS)
    await writer.check()

    async def is_ok() -> bool:
        return bool((await http.get("/health")).json()["status"] == "ok")

    await until(is_ok, seconds=BACK_SECONDS)
    assert await verify(environment) == (0, "stores agree")


async def test_postgresql_without_space_for_its_log_comes_back_by_itself(
    http: httpx.AsyncClient, disk: SmallDisk, environment: dict[str, str]
) -> None:
    writer = Writer(await register(http))
    for _ in range(20):
        assert (await writer.insert_small()).status_code == 201
    disk.fill(spare=1 << 20)
    inserting = asyncio.create_task(_insert_until_unavailable(writer, disk))
    with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InternalClientError, OSError)):
        await _fill_log(disk.folder / "postgres")
    refused = await inserting
    assert refused <= {"storage_full", "database_unavailable", "vector_index_unavailable", "lease_lost"}
    disk.free()
    await until(writer.is_written, seconds=BACK_SECONDS)
    await writer.check()
    assert await verify(environment) == (0, "stores agree")


async def _fill_log(postgres: Path) -> None:
    """Writes only to PostgreSQL's log, until there is no space for its next segment of 16 MB."""
    connection = await asyncpg.connect(host=str(postgres), user="postgres", database="rag_db_chatty")
    try:
        for _ in range(64):
            await connection.execute("SELECT pg_logical_emit_message(false, 'test', repeat('x', 1 << 20))")
    finally:
        connection.terminate()


async def _insert_until_unavailable(writer: Writer, disk: SmallDisk) -> set[str]:
    """The error codes until PostgreSQL is unavailable."""
    refused: set[str] = set()
    while "database_unavailable" not in refused:
        answer = await writer.insert_small()
        if answer.status_code != 201:
            check_refusal(answer, disk)
            refused.add(answer.json()["code"])
    return refused
