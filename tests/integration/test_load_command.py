"""``python -m app.cli load``, through HTTP to a server in this process, and through proxies that break connections."""

import asyncio
import csv
import random
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import orjson
import pyarrow
import pytest
import uvicorn
from pyarrow import parquet

from app import cli, load_command
from app.config import Settings
from app.core.services import Services
from app.load_command import default_key, load
from app.load_formats import Format, format_of, read_lines, record_count
from app.main import create_app
from app.utils.errors import InvalidInput
from tests.conftest import BotClient, _with_state, register, until


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_command, "PART_LINES", 40)
    monkeypatch.setattr(load_command, "LONGEST_PAUSE", 0.1)


@pytest.fixture
async def url(services: Services) -> AsyncIterator[str]:
    """The API on a port."""

    @asynccontextmanager
    async def given() -> AsyncIterator[Services]:
        yield services

    app = create_app(Settings(_env_file=None, auth_disabled=True), services=given())
    async with AsyncExitStack() as stack:
        state = await stack.enter_async_context(app.router.lifespan_context(app))
        config = uvicorn.Config(_with_state(app, dict(state)), port=0, lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        serving = asyncio.create_task(server._serve())
        while not server.started:
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        server.should_exit = True
        await serving


@pytest.fixture
async def target(url: str) -> AsyncIterator[BotClient]:
    async with httpx.AsyncClient(base_url=url) as http:
        yield await register(http)


def write(path: Path, *values: object) -> Path:
    path.write_bytes(b"".join(orjson.dumps(value) + b"\n" for value in values))
    return path


def own_file(path: Path, count: int) -> Path:
    items = [
        {"document": {"title": f"text {number}"}, "chunks": [{"chunk_index": 0, "text": f"text {number}"}]}
        for number in range(count)
    ]
    return write(path, *items)


async def run(url: str, bot: BotClient, path: Path, columns: dict[str, str] | None = None) -> int:
    kind = format_of(path)
    lines = read_lines(path, kind, bot.bot_id, columns or {})
    return await load(url, bot.bot_id, lines, default_key(path), "error", record_count(path, kind))


async def titles(bot: BotClient) -> list[str]:
    answer = await bot.http.get("/data/documents", params={"chat_bot_id": str(bot.bot_id), "limit": 1000})
    return sorted(document["title"] for document in answer.json()["documents"])


def expected(count: int) -> list[str]:
    return sorted(f"text {number}" for number in range(count))


async def test_a_load_is_continued(
    url: str, target: BotClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = own_file(tmp_path / "a.ndjson", 150)
    first = asyncio.create_task(run(url, target, path))
    while not await titles(target):
        await asyncio.sleep(0.01)
    first.cancel()
    with suppress(asyncio.CancelledError):
        await first
    for _ in range(2):
        assert await run(url, target, path) == 0
        assert await titles(target) == expected(150)
    assert "150 documents stored, 0 failed" in capsys.readouterr().out


async def test_lines_that_failed_are_named(
    url: str, target: BotClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = own_file(tmp_path / "a.ndjson", 60)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[49] = b"{broken\n"
    path.write_bytes(b"".join(lines))
    assert await run(url, target, path) == 1
    printed = capsys.readouterr().out
    assert "line 50: body.lines.10" in printed
    assert "59 documents stored, 1 failed" in printed


async def test_a_document_that_another_request_writes_is_loaded_afterwards(
    url: str, target: BotClient, services: Services, tmp_path: Path, at: Callable[..., asyncio.Event]
) -> None:
    services.ingest._patience = 0.1
    over = asyncio.Event()
    begun = at("write.before_t2", over.wait)

    async def refused() -> bool:
        found = (await target.http.get("/errors")).json()["errors"]
        return any(one["code"] == "external_id_in_flight" for one in found)

    other = asyncio.create_task(target.insert("of another request", external_id="x"))
    await begun.wait()
    item = {"document": {"title": "loaded", "external_id": "x"}, "chunks": [{"chunk_index": 0, "text": "loaded"}]}
    path = write(tmp_path / "a.ndjson", item)
    lines = read_lines(path, format_of(path), target.bot_id, {})
    loading = asyncio.create_task(load(url, target.bot_id, lines, default_key(path), "replace"))
    await until(refused)
    over.set()
    await other
    assert await loading == 0
    assert await titles(target) == ["loaded"]


def test_ctrl_c_ends_in_one_line(tmp_path: Path) -> None:
    """While the server does not answer."""
    path = own_file(tmp_path / "a.ndjson", 3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        command = [sys.executable, "-m", "app.cli", "load", str(path), "--bot", str(uuid4()), "--url", url]
        # Tests that run in a shell's background have SIGINT ignored, and what they start would have so, too.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            loading = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        finally:
            signal.signal(signal.SIGINT, before)
        with server.accept()[0]:
            loading.send_signal(signal.SIGINT)
            errors = loading.communicate(timeout=60)[1]
    assert loading.returncode == 130
    assert errors.strip().splitlines()[-1] == "stopped: the same command goes on where it was"
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("command", "next_step"),
    [
        ("restore a --check", "the same command begins again"),
        ("restore a", "the same command goes on where it was"),
        ("restore-bot a --again", "the same command without --again goes on where it was"),
        ("verify", "the same command begins again"),
    ],
)
def test_what_to_do_after_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, next_step: str
) -> None:
    def pressed() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "checked_settings", pressed)
    monkeypatch.setattr(sys, "argv", ["cli", *command.split()])
    assert cli.main() == 130
    assert capsys.readouterr().err == f"stopped: {next_step}\n"


class Proxy:
    """Forwards connections, and does with each what ``forward`` does."""

    def __init__(self, url: str, forward: Callable[..., Any]) -> None:
        self._port = int(url.rpartition(":")[2])
        self._forward = forward
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Ends the connections that a client left open."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if task := asyncio.current_task():
            self._tasks.add(task)
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            with suppress(ConnectionError, TimeoutError):
                await self._forward(reader, writer, up_reader, up_writer)
        finally:
            for one in (writer, up_writer):
                one.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: float = float("inf")) -> None:
    copied = 0
    while (piece := await reader.read(256)) and copied < most:
        writer.write(piece)
        await writer.drain()
        copied += len(piece)


async def cutting(reader: Any, writer: Any, up_reader: Any, up_writer: Any) -> None:
    """Cuts most connections after some bytes or some time."""
    if random.random() < 0.3:
        await asyncio.gather(_copy(reader, up_writer), _copy(up_reader, writer))
    most = random.randint(0, 3_000)
    sending = asyncio.create_task(_copy(up_reader, writer))
    try:
        await asyncio.wait_for(_copy(reader, up_writer, most), random.random())
    finally:
        sending.cancel()


async def buffering(reader: Any, writer: Any, up_reader: Any, up_writer: Any) -> None:
    """Sends a request on when it has all of it, and then its answer when it has all of that."""
    request = b""
    while True:
        head, separator, body = request.partition(b"\r\n\r\n")
        length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        if separator and len(body) >= (int(length[0].split(b":")[1]) if length else 0):
            break
        piece = await reader.read(1 << 16)
        if not piece:
            return
        request += piece
    up_writer.write(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
    writer.write(await up_reader.read(-1))
    await writer.drain()


async def closing_when_idle(reader: Any, writer: Any, up_reader: Any, up_writer: Any) -> None:
    """Closes a connection on which nothing moves for a moment."""

    async def copy(source: Any, sink: Any) -> None:
        while piece := await asyncio.wait_for(source.read(1 << 16), 0.3):
            sink.write(piece)
            await sink.drain()

    tasks = [asyncio.create_task(copy(reader, up_writer)), asyncio.create_task(copy(up_reader, writer))]
    done, _ = await asyncio.wait(tasks)
    for one in done:
        one.exception()


@pytest.mark.parametrize("forward", [cutting, buffering, closing_when_idle])
async def test_a_load_ends_complete_through_a_bad_proxy(
    url: str, target: BotClient, tmp_path: Path, forward: Callable[..., Any]
) -> None:
    path = own_file(tmp_path / "a.ndjson", 200)
    proxy = Proxy(url, forward)
    server = await asyncio.start_server(proxy.handle, "127.0.0.1", 0)
    through = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    assert await run(through, target, path) == 0
    server.close()
    await proxy.close()
    assert proxy.connections > 1
    assert await titles(target) == expected(200)


def read(path: Path, kind: Format | None = None, **columns: str) -> list[dict[str, Any]]:
    return [orjson.loads(line.content) for line in read_lines(path, kind or format_of(path), uuid4(), columns)]


def test_langchain(tmp_path: Path) -> None:
    chunks = [
        {"page_content": f"text {number}", "metadata": {"source": "/a/b.pdf", "page": number, "lang": "ko"}}
        for number in range(3)
    ]
    dumped = {"lc": 1, "type": "constructor", "kwargs": {"page_content": "alone", "metadata": {}, "type": "Document"}}
    path = write(tmp_path / "a.jsonl", *chunks, dumped, dumped)
    assert format_of(path) == "langchain"
    first, *others = read(path)
    document = first["document"]
    assert (document["title"], document["external_id"], document["file_path"]) == ("b.pdf", "/a/b.pdf", "/a/b.pdf")
    assert document["metadata"] == {"source": "/a/b.pdf", "lang": "ko"}
    assert first["chunks"] == [{"chunk_index": n, "text": f"text {n}", "page_number": n} for n in range(3)]
    assert [(one["document"]["title"], one["document"]["external_id"]) for one in others] == [("alone", None)] * 2
    with pytest.raises(InvalidInput, match="line 1"):
        read(write(tmp_path / "b.jsonl", {"text": "x"}), "langchain")


def test_llamaindex(tmp_path: Path) -> None:
    def node(text: str, number: int) -> dict[str, Any]:
        relationships = {"1": {"node_id": "doc-1", "node_type": "4"}}
        metadata = {"file_path": "/a/b.txt", "file_name": "b.txt"}
        return {"id_": f"n{number}", "metadata": metadata, "relationships": relationships, "text": text}

    newer = {"id_": "d2", "metadata": {}, "relationships": {}, "text_resource": {"text": "of a newer version"}}
    path = write(tmp_path / "a.jsonl", node("one", 1), node("two", 2), newer)
    assert format_of(path) == "llamaindex"
    first, second = read(path)
    assert (first["document"]["title"], first["document"]["external_id"]) == ("b.txt", "doc-1")
    assert [chunk["text"] for chunk in first["chunks"]] == ["one", "two"]
    assert (second["document"]["title"], second["document"]["external_id"]) == ("of a newer version", "d2")


def test_tables(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "name": "first", "body": "one", "page": 1, "lang": "ko"},
        {"id": "a", "name": "first", "body": "two", "page": 2, "lang": "ko"},
        {"id": "b", "name": None, "body": "three", "page": None, "lang": None},
    ]
    columns = {"text": "body", "title": "name", "external_id": "id", "page_number": "page"}
    of_parquet, of_csv = tmp_path / "a.parquet", tmp_path / "a.csv"
    parquet.write_table(pyarrow.Table.from_pylist(rows), of_parquet)
    with of_csv.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for path in (of_parquet, of_csv):
        assert record_count(path, format_of(path)) == 3
        first, second = read(path, **columns)
        assert (first["document"]["title"], first["document"]["metadata"]) == ("first", {"lang": "ko"})
        assert [(chunk["text"], chunk["page_number"]) for chunk in first["chunks"]] == [("one", 1), ("two", 2)]
        assert (second["document"]["title"], second["document"]["external_id"]) == ("three", "b")
        with pytest.raises(InvalidInput, match="no column text"):
            read(path)
    with pytest.raises(InvalidInput, match="no Parquet file"):
        read(of_csv, "parquet")
