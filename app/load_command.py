"""``python -m app.cli load``: loads a file into a bot, through /data/insert/stream of a running server.

The file becomes parts of a fixed size. A few are sent at a time, each again until the server has stored it. A load that
was stopped is continued by the same command: the server skips what it has, and complete parts are not sent.
"""

import argparse
import asyncio
import gzip
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args
from uuid import UUID

import aiohttp
from tqdm import tqdm

from app.config import Settings
from app.core.write.upsert import OnConflict
from app.load_formats import FIELDS, FORMATS, Line, format_of, read_lines, record_count
from app.utils.errors import AppError, InvalidInput, Unavailable

PART_LINES, PART_BYTES = 2_000, 4 << 20
"""A part ends with one of these. Small parts also pass proxies that close connections after some seconds."""
PARTS_AT_ONCE = 4
PATIENCE_SECONDS = 300.0
"""A part of which no further line could be stored for so long ends the load."""
LONGEST_PAUSE = 10.0
PRINTED_ERRORS = 20
AGAIN = frozenset({408, 429, 502, 503, 504})
CUT_OFF = (aiohttp.ClientError, ConnectionError, TimeoutError, ValueError)
"""The answer did not come, or not as a whole."""
ATTEMPTS = 20
"""At a question for what is stored."""
KEY_VARIABLE = "CHAT_MEMORY_API_KEY"
STREAM = "/data/insert/stream"


@dataclass(frozen=True, slots=True)
class Part:
    """``first``: the number of its first line in the whole load. ``body``: its lines, compressed."""

    number: int
    first: int
    lines: int
    records: int
    sha256: str
    body: bytes


def parts_of(lines: Iterator[Line]) -> Iterator[Part]:
    """The same lines always give the same parts."""
    number, first = 1, 1
    some: list[Line] = []
    size = 0
    for line in lines:
        some.append(line)
        size += len(line.content) + 1
        if len(some) == PART_LINES or size >= PART_BYTES:
            yield _part(number, first, some)
            number, first, some, size = number + 1, first + len(some), [], 0
    if some:
        yield _part(number, first, some)


def _part(number: int, first: int, lines: list[Line]) -> Part:
    body = b"".join(line.content + b"\n" for line in lines)
    records = sum(line.records for line in lines)
    return Part(number, first, len(lines), records, sha256(body).hexdigest(), gzip.compress(body, 1, mtime=0))


def default_key(path: Path, *options: object) -> str:
    """The same for the same file, as long as it is not changed, with the same options."""
    try:
        stat = path.stat()
    except OSError as exc:
        raise InvalidInput(f"{path} cannot be read: {exc.strerror}.") from exc
    identity = repr((str(path.resolve()), stat.st_size, stat.st_mtime_ns, *options))
    return f"load-{sha256(identity.encode()).hexdigest()[:20]}"


class Loader:
    def __init__(self, http: aiohttp.ClientSession, url: str, bot_id: UUID, stream_key: str, on_conflict: str) -> None:
        self._http = http
        self._url = url.rstrip("/")
        self._bot = {"chat_bot_id": str(bot_id)}
        self._stream_key = stream_key
        self._on_conflict = on_conflict
        self.counts: Counter[str] = Counter()
        self.first_lines: dict[int, int] = {}

    async def run(self, parts: Iterator[Part], bar: "tqdm[Any]") -> None:
        """Sends the parts, a few at a time. Raises AppError."""
        stored = await self._stored()
        running: set[asyncio.Task[None]] = set()

        async def one_done() -> None:
            nonlocal running
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()

        try:
            while part := await asyncio.to_thread(next, parts, None):
                self.first_lines[part.number] = part.first
                known = stored.get(part.number, {})
                if (known.get("lines"), known.get("sha256")) == (part.lines, part.sha256):
                    self._done(part, known, bar)
                    continue
                if len(running) == PARTS_AT_ONCE:
                    await one_done()
                running.add(asyncio.create_task(self._send(part, bar)))
                await asyncio.sleep(0)
            while running:
                await one_done()
        finally:
            for one in running:
                one.cancel()

    async def failed_lines(self, most: int) -> list[str]:
        """What is wrong with the first lines that failed."""
        params = {**self._bot, "failed": "true", "limit": str(most)}
        answer = await self._get(f"{STREAM}/{self._stream_key}/results", params)
        return [
            f"line {self.first_lines.get(one['part'], 1) + one['line'] - 1}: {one['error']['detail']}"
            for one in answer["results"]
        ]

    async def _stored(self) -> dict[int, dict[str, Any]]:
        """The parts that the server has, by their number."""
        found: dict[int, dict[str, Any]] = {}
        cursor: dict[str, str] = {}
        while True:
            answer = await self._get(f"{STREAM}/{self._stream_key}", {**self._bot, "limit": "1000", **cursor})
            found |= {part["part"]: part for part in answer.get("parts", ())}
            if not answer.get("next_cursor"):
                return found
            cursor = {"cursor": answer["next_cursor"]}

    async def _send(self, part: Part, bar: "tqdm[Any]") -> None:
        """Sends the part until all its lines are stored."""
        params = {**self._bot, "stream_key": self._stream_key, "part": str(part.number)}
        params["on_conflict"] = self._on_conflict
        headers = {"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"}
        loop = asyncio.get_running_loop()
        until, lines, pause = loop.time() + PATIENCE_SECONDS, 0, 0.5
        while True:
            wait = pause
            try:
                url = self._url + STREAM
                async with self._http.post(url, params=params, data=part.body, headers=headers) as response:
                    answer = await response.json(content_type=None)
                    if response.status == 200 and answer["lines"] == part.lines:
                        self._done(part, answer, bar)
                        return
                    reason = answer.get("detail", response.reason)
                    # A cut body looks malformed to the server.
                    again = "Retry-After" in response.headers or answer.get("code") == "malformed_body"
                    again = again or response.status in AGAIN
                    if response.status != 200 and not again:
                        raise InvalidInput(f"part {part.number}: {reason}")
                    wait = max(wait, float(response.headers.get("Retry-After", 0)))
                    stored = answer.get("progress", answer).get("lines", 0)
                    if stored > lines:
                        until, lines, pause = loop.time() + PATIENCE_SECONDS, stored, 0.5
            except CUT_OFF as exc:
                reason = str(exc) or type(exc).__name__
            if loop.time() > until:
                raise Unavailable(f"part {part.number} could not be sent: {reason}")
            await asyncio.sleep(wait)
            pause = min(LONGEST_PAUSE, 1.5 * pause)

    def _done(self, part: Part, counts: dict[str, Any], bar: "tqdm[Any]") -> None:
        self.counts["stored"] += counts["stored"]
        self.counts["failed"] += counts["failed"]
        bar.update(part.records)

    async def _get(self, path: str, params: dict[str, str]) -> dict[str, Any]:
        """The answer; empty for a stream that is not known. Raises AppError."""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(min(LONGEST_PAUSE, 0.5 * attempt))
            try:
                async with self._http.get(self._url + path, params=params) as response:
                    answer: dict[str, Any] = await response.json(content_type=None)
            except CUT_OFF as exc:
                reason = str(exc) or type(exc).__name__
                continue
            if response.status == 404 and answer.get("code") == "stream_not_found":
                return {}
            if response.status == 200:
                return answer
            reason = str(answer.get("detail", response.reason))
            if response.status not in AGAIN:
                raise InvalidInput(reason)
        raise Unavailable(f"{self._url} does not answer: {reason}")


async def load(
    url: str, bot_id: UUID, lines: Iterator[Line], stream_key: str, on_conflict: str, total: int | None = None
) -> int:
    """Loads the lines; prints what failed and a summary. Returns how many lines failed. Raises AppError.

    ``total``: the number of all records, for the progress bar.
    """
    key = os.environ.get(KEY_VARIABLE)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=2 * PATIENCE_SECONDS)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as http:
        loader = Loader(http, url, bot_id, stream_key, on_conflict)
        with tqdm(total=total, desc="load", unit="record", disable=None) as bar:
            await loader.run(parts_of(lines), bar)
        if loader.counts["failed"]:
            try:
                for line in await loader.failed_lines(PRINTED_ERRORS):
                    tqdm.write(line, file=sys.stdout)
            except AppError as exc:
                tqdm.write(str(exc), file=sys.stderr)
    stored, failed = loader.counts["stored"], loader.counts["failed"]
    tqdm.write(f"{stored:,} documents stored, {failed:,} failed (stream {stream_key})", file=sys.stdout)
    return loader.counts["failed"]


def add_load_command(commands: Any) -> None:
    parser = commands.add_parser(
        "load",
        help="load a file into a bot through a running server; run again, it goes on",
        description=f"The server's API key is taken from the variable {KEY_VARIABLE}.",
    )
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--bot", type=UUID, required=True, help="chat_bot_id")
    parser.add_argument("--url", help="of the server; default: http:// with HOST and PORT")
    parser.add_argument("--format", choices=FORMATS, help="default: by the name and the first line of the file")
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        type=_column,
        metavar="FIELD=COLUMN",
        help=f"for Parquet and CSV; fields: {', '.join(FIELDS)}. Other columns become metadata",
    )
    parser.add_argument(
        "--on-conflict",
        choices=get_args(OnConflict),
        default="error",
        help="what happens if the bot has a document with the external_id (default: %(default)s)",
    )
    parser.add_argument("--stream", metavar="KEY", help="name of the load; default: made of the file's path and time")


def run_load_command(settings: Settings, arguments: argparse.Namespace) -> int:
    """The exit code: 0, or 1 if lines failed. Raises AppError."""
    path, columns = arguments.file, dict(arguments.column)
    kind = arguments.format or format_of(path)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = arguments.url or f"http://{host}:{settings.port}"
    key = arguments.stream or default_key(path, kind, sorted(columns.items()), arguments.on_conflict)
    lines = read_lines(path, kind, arguments.bot, columns)
    total = record_count(path, kind)
    return 1 if asyncio.run(load(url, arguments.bot, lines, key, arguments.on_conflict, total)) else 0


def _column(text: str) -> tuple[str, str]:
    field, _, column = text.partition("=")
    if field not in FIELDS or not column:
        raise argparse.ArgumentTypeError(f"should be FIELD=COLUMN, with one of these fields: {', '.join(FIELDS)}")
    return field, column
