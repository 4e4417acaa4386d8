"""The commands of docs/OPERATIONS.md on PostgreSQL, Milvus Lite and a Milvus server: a bot that is lost comes back."""

import asyncio
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from app import backup_command, cli, export_file
from app.core.bots.bots import NewBot
from app.core.commands import open_backup
from app.core.services import open_services
from app.core.stores.address import PostgresAddress
from app.core.transfer.export import Exporter
from app.core.transfer.importing import Import
from app.schemas.rows import NewChunk, NewDocument
from app.settings_check import checked_settings
from app.utils.stopwatch import Stopwatch
from tests.conftest import fresh_database
from tests.doubles.hash_embedder import HashEmbedder
from tests.integration.transfers import assert_same, vectors_of, without_vectors
from tests.lite_server import LiteServer
from tests.milvus_server import MilvusServer

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "OPERATIONS.md"
FOLDER = "/backups/2026-11-30"
BOT = UUID("7f3c1e9a-2b4d-4c6e-8f10-1a2b3c4d5e6f")
COPY = UUID("0b8f6a52-93d1-4e07-a1c4-5d2e7f3b9c60")
OTHER = UUID("11111111-2222-4333-8444-555555555555")
DOCUMENTS = 23


class AnotherModel(HashEmbedder):
    model = "another"

    def __init__(self) -> None:
        super().__init__(dimension=48)


@pytest.fixture
def postgres(postgres_server: PostgresAddress) -> Iterator[Callable[[], str]]:
    """Makes databases, which last until the end of the test; returns their names."""
    loop = asyncio.new_event_loop()
    opened: list[Any] = []

    def new() -> str:
        database = fresh_database(postgres_server)
        opened.append(database)
        return str(loop.run_until_complete(database.__aenter__()).database)

    yield new
    for database in opened:
        loop.run_until_complete(database.__aexit__(None, None, None))
    loop.close()


@pytest.fixture(autouse=True)
def environment(postgres_server: PostgresAddress, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No model is loaded."""

    async def open_embedder(_settings: object) -> HashEmbedder:
        return HashEmbedder()

    monkeypatch.setattr("app.core.services.open_embedder", open_embedder)
    for name, value in {
        "POSTGRES_HOST": postgres_server.host,
        "POSTGRES_PORT": str(postgres_server.port),
        "POSTGRES_USER": postgres_server.user,
        "AUTH_DISABLED": "true",
        "RECOVERY_INTERVAL_SECONDS": "0.1",
        "SAGA_LEASE_SECONDS": "3",
        "MILVUS_TIMEOUT": "5",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(export_file, "BATCH_DOCUMENTS", 5)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    def these(database: str, milvus_uri: str) -> None:
        monkeypatch.setenv("POSTGRES_DB_NAME", database)
        monkeypatch.setenv("MILVUS_URI", milvus_uri)

    return these


@contextmanager
def lite(folder: Path) -> Iterator[str]:
    folder.mkdir()
    with LiteServer(folder) as server:
        yield server.uri


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], tuple[int, str]]:
    def run(line: str) -> tuple[int, str]:
        """Exit code and output."""
        monkeypatch.setattr(sys, "argv", line.split())
        code = cli.main()
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


async def fill() -> None:
    """Two bots, one of them with settings of its own, and documents with and without an external_id."""
    async with open_services(checked_settings()) as services:
        await services.bots.create(
            NewBot(BOT, "안내 봇", "guide", "mine", default_mode="dense", title_in_lexical=False)
        )
        await services.bots.create(NewBot(OTHER, "other", "other", "theirs", default_dense_weight=0.7))
        for bot_id, count in ((BOT, DOCUMENTS), (OTHER, 3)):
            documents = [
                NewDocument(
                    f"Title {number}",
                    [NewChunk(2 * index, f"본문 {number} {index}", index or None) for index in range(3)],
                    tags=["t", "가"],
                    metadata={"n": number, "deep": [{"x": None}]},
                    external_id=f"d/{number}" if number % 2 else None,
                )
                for number in range(count)
            ]
            for document in documents:
                await services.ingest.insert(bot_id, None, document, Stopwatch())


async def contents(bot_id: UUID) -> list[dict[str, Any]]:
    """The lines of the bot's export."""
    async with open_backup(checked_settings()) as source:
        pieces = [piece async for piece in await source.exporter.open(bot_id, None)]
    return [json.loads(line) for line in b"".join(pieces).splitlines()]


def settings_of(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in lines[0]["bot"].items() if key != "created_at"}


def commands_of_the_page() -> set[str]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return {line.removeprefix("python -m ") for block in blocks for line in block.splitlines()}


def test_the_page(
    postgres: Callable[[], str],
    use: Callable[[str, str], None],
    command: Callable[[str], tuple[int, str]],
    tmp_path: Path,
) -> None:
    ran: set[str] = set()

    def run(line: str, expected: int = 0) -> str:
        ran.add(f"app.{line}")
        code, output = command(line.replace(FOLDER, str(tmp_path / "backup")))
        assert code == expected, (line, output)
        return output

    with lite(tmp_path / "first") as first, lite(tmp_path / "second") as second, lite(tmp_path / "third") as third:
        database = postgres()
        use(database, first)
        asyncio.run(fill())
        (key,) = run("cli keys create --account mine --scope write").splitlines()[-1:]
        before = {bot_id: asyncio.run(contents(bot_id)) for bot_id in (BOT, OTHER)}
        assert "2 bots, 26 documents, 1 API keys" in run(f"cli backup {FOLDER} --check")
        assert "3 files are whole" in run(f"cli restore {FOLDER} --check")
        run("cli export --bot 7f3c1e9a-2b4d-4c6e-8f10-1a2b3c4d5e6f bot.ndjson.gz")
        copied = run("cli restore-bot bot.ndjson.gz --bot 0b8f6a52-93d1-4e07-a1c4-5d2e7f3b9c60")
        assert "23 created, 0 replaced, 0 unchanged, 0 skipped, 0 failed; 0 chunks embedded" in copied
        copy = asyncio.run(contents(COPY))
        assert_same(before[BOT], copy)
        assert copy[0]["bot"]["collection_name"] == f"bot_{COPY.hex}"
        merged = run("cli restore-bot bot.ndjson.gz --on-conflict replace_if_changed --again")
        assert "12 created, 0 replaced, 11 unchanged" in merged

        use(database, second)  # Milvus was lost.
        run("cli repair")
        run("cli verify")

        use(postgres(), first)  # PostgreSQL was lost.
        run("cli adopt")
        assert "found vector_orphan" in run(f"cli restore {FOLDER}", 1)
        run("cli repair")
        run("cli verify")
        for bot_id, lines in before.items():
            assert_same(lines, asyncio.run(contents(bot_id)))

        use(postgres(), third)  # Both were lost.
        output = run(f"cli restore {FOLDER}")
        assert "0 chunks embedded" in output
        assert "1 of 1 API keys" in output
        assert "0 of 1 API keys" in run(f"cli restore {FOLDER}"), "it stores nothing twice"
        run("cli verify")
        assert key.partition("_")[2][:8] in command("cli keys list")[1]
        for bot_id, lines in before.items():
            after = asyncio.run(contents(bot_id))
            assert_same(lines, after)
            assert settings_of(lines) == settings_of(after)
    assert ran - {"app.cli keys create --account mine --scope write"} == commands_of_the_page()


def interrupt(monkeypatch: pytest.MonkeyPatch, of: type, method: str, at: int) -> Callable[[], None]:
    """The call number ``at`` is as if Ctrl-C had been pressed. Returns what ends this."""
    original = getattr(of, method)
    calls = 0

    async def interrupted(self: Any, *args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise KeyboardInterrupt
        return await original(self, *args, **options)

    monkeypatch.setattr(of, method, interrupted)
    return lambda: monkeypatch.setattr(of, method, original)


def test_stopped_and_continued_and_damaged(
    postgres: Callable[[], str],
    use: Callable[[str, str], None],
    command: Callable[[str], tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "backup"
    with lite(tmp_path / "first") as first, lite(tmp_path / "second") as second:
        use(postgres(), first)
        asyncio.run(fill())
        before = asyncio.run(contents(BOT))
        go_on = interrupt(monkeypatch, Exporter, "open", 2)
        assert command(f"cli backup {folder}")[0] == 130
        go_on()
        assert not (folder / "manifest.json").exists()
        (done,) = (folder / "bots").glob("*.ndjson.gz")
        assert (done.stat().st_mode & 0o777) == 0o600
        written = done.stat().st_mtime_ns
        code, output = command(f"cli restore {folder}")
        assert (code, "no complete backup" in output) == (2, True)
        assert command(f"cli backup {folder}")[0] == 0
        assert done.stat().st_mtime_ns == written, "it is not exported again"
        code, output = command(f"cli backup {folder}")
        assert (code, "has a complete backup" in output) == (2, True)

        use(postgres(), second)
        go_on = interrupt(monkeypatch, Import, "store", 3)
        assert command(f"cli restore {folder}")[0] == 130
        go_on()
        code, output = command(f"cli restore {folder}")
        assert (code, "10 of these documents by an earlier run" in output) == (0, True), output
        assert_same(before, asyncio.run(contents(BOT)))

        use(postgres(), first)  # With bots of its own.
        command("cli adopt")
        asyncio.run(fill())
        code, output = command(f"cli restore {folder}")
        assert (code, output.count("It has documents already")) == (1, 2)

    data = done.read_bytes()
    done.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])
    code, output = command(f"cli backup {folder} --check")
    assert (code, "1 files are damaged" in output) == (1, True)
    code, output = command(f"cli restore {folder}")
    assert (code, "Nothing was restored" in output) == (2, True)
    done.unlink()
    assert backup_command.check_backup(folder) == 1


def test_from_lite_to_a_server_and_to_another_model(
    postgres: Callable[[], str],
    use: Callable[[str, str], None],
    command: Callable[[str], tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    with lite(tmp_path / "first") as first:
        use(postgres(), first)
        asyncio.run(fill())
        before = asyncio.run(contents(BOT))
        assert command(f"cli export --bot {BOT} bot.ndjson")[0] == 0
        assert command(f"cli restore-bot bot.ndjson --bot {COPY}")[0] == 0
    (tmp_path / "server").mkdir()
    with MilvusServer(tmp_path / "server", {"proxy.timeTickInterval": 50}) as server:
        use(postgres(), server.uri)
        code, output = command("cli restore-bot bot.ndjson")
        assert (code, "0 chunks embedded" in output) == (0, True), output
        after = asyncio.run(contents(BOT))
        assert_same(before, after)

        async def open_embedder(_settings: object) -> HashEmbedder:
            return AnotherModel()

        monkeypatch.setattr("app.core.services.open_embedder", open_embedder)
        code, output = command(f"cli restore-bot bot.ndjson --bot {COPY}")
        assert (code, f"{3 * DOCUMENTS} chunks embedded" in output) == (0, True), output
        after = asyncio.run(contents(COPY))
        assert without_vectors(before) == without_vectors(after)
        assert vectors_of(after).size == 3 * DOCUMENTS * 48
