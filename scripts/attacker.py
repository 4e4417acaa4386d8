"""The attacks of scripts/attack. Each runs in a process of its own, at a lower priority than the server.

``python -m scripts.attacker NAME ADDRESS KEY BOT`` prints a line when the attack has begun, goes on until its standard
input ends, and prints as JSON how often each status came back, with ``closed`` for a connection without an answer.
"""

import asyncio
import gzip
import json
import os
import resource
import select
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urlsplit

GIGABYTE = 1 << 30
PIECE = memoryview(bytes(256 << 10))
LARGE = (32 << 20) - 64
"""Just under MAX_BODY_BYTES: two of them leave no room for the body of a search."""
LINE = 125_000_000
"""Bytes a second that an attacker can send: a line of 1 Gbit/s."""
SLOW_CONNECTIONS = 200
IDLE_CONNECTIONS = 10_000
SOURCES = 5
"""Addresses of the loopback network. One alone would run out of ports."""
OPENED_PER_SECOND = 300
SENDERS = 4
HAMMERS = 16
WRITES = 100
"""More than MAX_CONCURRENT_WRITES."""
NICE = 19
"""The nice value: a real attacker has other machines; here it shares the server's cores."""


@dataclass
class Target:
    host: str
    port: int
    key: str
    bot: str
    seen: Counter[str] = field(default_factory=Counter)
    over: threading.Event = field(default_factory=threading.Event)
    _line_free: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wait_for_line(self, size: int) -> None:
        with self._lock:
            begin = max(self._line_free, time.monotonic())
            self._line_free = begin + size / LINE
        time.sleep(max(0.0, begin - time.monotonic()))

    def head(self, path: str, *lines: str) -> bytes:
        """Of a POST, without the empty line that ends it."""
        given = "".join(f"{line}\r\n" for line in lines)
        return (
            f"POST {path} HTTP/1.1\r\nhost: {self.host}\r\nx-api-key: {self.key}\r\n"
            f"content-type: application/json\r\n{given}"
        ).encode()

    def count(self, answer: bytes) -> None:
        self.seen[answer[9:12].decode() if answer.startswith(b"HTTP/1.1 ") else "closed"] += 1


def big_body(target: Target, *, chunked: bool) -> None:
    """Sends a gigabyte repeatedly on each of SENDERS connections, whatever the server answers meanwhile."""
    length = "transfer-encoding: chunked" if chunked else f"content-length: {GIGABYTE}"
    head = target.head("/data/insert/batch", length) + b"\r\n"
    before = b"%x\r\n" % len(PIECE) if chunked else b""
    pieces = [memoryview(before + bytes(PIECE) + (b"\r\n" if chunked else b""))] * (GIGABYTE // len(PIECE))

    def once() -> None:
        with socket.create_connection((target.host, target.port)) as wire:
            target.count(_pour(wire, target, head, pieces))

    _repeat_in_threads(target, once)


def gzip_bomb(target: Target) -> None:
    """A gigabyte of blanks, compressed."""
    content = gzip.compress(b" " * (1 << 20)) * 1024  # RFC 1952: members one after another are one file
    lines = ("content-encoding: gzip", f"content-length: {len(content)}")
    head = target.head("/data/insert/batch", *lines) + b"\r\n"
    pieces = [memoryview(content)[start : start + len(PIECE)] for start in range(0, len(content), len(PIECE))]

    def once() -> None:
        with socket.create_connection((target.host, target.port)) as wire:
            target.count(_pour(wire, target, head, pieces))

    _repeat_in_threads(target, once)


def _pour(wire: socket.socket, target: Target, head: bytes, pieces: Sequence[memoryview]) -> bytes:
    """Sends ``head`` and ``pieces`` until the server closes the connection. Returns its answer."""
    answer = b""
    sent = 0
    try:
        wire.sendall(head)
        while sent < len(pieces) and not target.over.is_set():
            readable, writable, _ = select.select([wire], [wire], [], 1)
            if readable:
                got = wire.recv(65536)
                if not got:
                    return answer
                answer += got
            if writable:
                target.wait_for_line(len(pieces[sent]))
                wire.sendall(pieces[sent])
                sent += 1
        wire.settimeout(10)
        while not target.over.is_set() and (got := wire.recv(65536)):
            answer += got
    except OSError:  # Reset: the answer may be lost, or have been read before.
        pass
    if target.over.is_set() and not answer:
        raise InterruptedError
    return answer


def _repeat_in_threads(target: Target, once: Callable[[], None]) -> None:
    def sender() -> None:
        while not target.over.is_set():
            try:
                once()
            except InterruptedError:
                return
            except OSError:
                target.seen["closed"] += 1

    threads = [threading.Thread(target=sender, daemon=True) for _ in range(SENDERS)]
    for thread in threads:
        thread.start()
    _under_way()
    target.over.wait()
    for thread in threads:
        thread.join(5)


class Wire(asyncio.Protocol):
    """Sends ``opening``; counts the answer, or the end without one, and calls ``ended``."""

    def __init__(self, target: Target, opening: bytes, ended: Callable[["Wire"], None]) -> None:
        self.target, self.opening, self.ended = target, opening, ended
        self.transport: asyncio.Transport | None = None
        self.answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self.opening)

    def data_received(self, data: bytes) -> None:
        if not self.answered:  # What follows is the rest of the same answer.
            self.answered = True
            self.target.count(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if not self.answered:
            self.target.seen["closed"] += 1
        self.ended(self)


async def slow(target: Target, *, opening: bytes) -> None:
    """SLOW_CONNECTIONS that send ``opening`` and then a byte a second; each that ends is opened again."""
    wires: set[Wire] = set()
    loop = asyncio.get_running_loop()

    async def keep_open() -> None:
        while len(wires) < SLOW_CONNECTIONS:
            wire = Wire(target, opening, wires.discard)
            wires.add(wire)
            await loop.create_connection(lambda wire=wire: wire, target.host, target.port)  # type: ignore[misc]

    await keep_open()
    _under_way()
    while not target.over.is_set():
        began = loop.time()
        for number, wire in enumerate(list(wires)):
            if wire.transport is not None:
                wire.transport.write(b"1")
            if number % 10 == 9:
                await asyncio.sleep(0)
        await keep_open()
        await asyncio.sleep(max(0.0, began + 1 - loop.time()))


async def idle(target: Target) -> None:
    """IDLE_CONNECTIONS that send a request, stay open, and send another at the end. The last answers are counted."""
    live = f"GET /health/live HTTP/1.1\r\nhost: {target.host}\r\n\r\n".encode()
    wires: list[Wire] = []
    loop = asyncio.get_running_loop()
    began = loop.time()
    lost = 0

    def ended(_: Wire) -> None:
        nonlocal lost
        lost += 1

    _under_way()
    for number in range(IDLE_CONNECTIONS):
        wires.append(Wire(target, live, ended))
        source = (f"127.0.0.{2 + number % SOURCES}", 0)
        await loop.create_connection(lambda: wires[-1], target.host, target.port, local_addr=source)
        await asyncio.sleep(max(0.0, began + number / OPENED_PER_SECOND - loop.time()))
        if target.over.is_set():
            break
    while not target.over.is_set():
        await asyncio.sleep(0.1)
    target.seen.clear()
    for number, wire in enumerate(wires):
        assert wire.transport is not None
        if wire.transport.is_closing():
            target.seen["closed"] += 1
        else:
            wire.answered = False
            wire.transport.write(live)
        if number % 20 == 19:
            await asyncio.sleep(0.005)
    await asyncio.sleep(1)
    for wire in wires:
        wire.answered = True  # Closed by us from here on.


async def hammer(target: Target) -> None:
    """Searches on HAMMERS connections, each as soon as the one before was answered."""
    body = json.dumps({"chat_bot_id": target.bot, "query_text": "누가 언제 무엇을 했나요?"}).encode()
    await _repeat(target, HAMMERS, target.head("/search/query", f"content-length: {len(body)}") + b"\r\n" + body)


async def reranked(target: Target) -> None:
    """Searches for 10,000 results, reranked."""
    await _search(target, limit=10_000, rerank=True)


async def contexts(target: Target) -> None:
    """Searches whose answers hold as many texts as is allowed."""
    await _search(target, limit=10_000 // 41, context_chunks=20)


async def _search(target: Target, **options: object) -> None:
    body = json.dumps({"chat_bot_id": target.bot, "query_text": "누가 언제 무엇을 했나요?", **options}).encode()
    await _repeat(target, HAMMERS, target.head("/search/query", f"content-length: {len(body)}") + b"\r\n" + body)


async def writes(target: Target) -> None:
    """Inserts, more at a time than MAX_CONCURRENT_WRITES."""
    document = {"chat_bot_id": target.bot, "title": "again"}
    body = json.dumps(
        {"document": document, "chunks": [{"chunk_index": 0, "text": "누가 언제 무엇을 했나요?"}]}
    ).encode()
    await _repeat(target, WRITES, target.head("/data/insert", f"content-length: {len(body)}") + b"\r\n" + body)


async def large_bodies(target: Target) -> None:
    """Bodies just below the size limit that never end: together they exceed MAX_BUFFERED_BYTES."""
    opening = target.head("/data/insert/batch", f"content-length: {LARGE + 60}") + b"\r\n" + bytes(LARGE)
    wires: set[Wire] = set()
    loop = asyncio.get_running_loop()
    under_way = False
    while not target.over.is_set():
        for _ in range(SENDERS - len(wires)):
            wire = Wire(target, opening, wires.discard)
            wires.add(wire)
            await loop.create_connection(lambda wire=wire: wire, target.host, target.port)  # type: ignore[misc]
        await asyncio.sleep(1)
        if not under_way:
            under_way = True
            _under_way()
        for wire in wires:
            if wire.transport is not None and not wire.transport.is_closing():
                wire.transport.write(b" ")


async def _repeat(target: Target, connections: int, request: bytes) -> None:
    _under_way()

    async def one() -> None:
        reader, writer = await asyncio.open_connection(target.host, target.port)
        while not target.over.is_set():
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            await reader.readexactly(length)
            target.count(head)
        writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))


def _under_way() -> None:
    print("under way", flush=True)


def _slow(target: Target, *, where: str) -> Awaitable[None]:
    if where == "head":
        return slow(target, opening=target.head("/search/query") + b"x-slow: ")
    return slow(target, opening=target.head("/search/query", "content-length: 100000") + b"\r\n")


ATTACKS: dict[str, Callable[[Target], Awaitable[None] | None]] = {
    "body-length": partial(big_body, chunked=False),
    "body-chunked": partial(big_body, chunked=True),
    "gzip-bomb": gzip_bomb,
    "large-bodies": large_bodies,
    "slow-heads": partial(_slow, where="head"),
    "slow-bodies": partial(_slow, where="body"),
    "idle": idle,
    "rate": hammer,
    "writes": writes,
    "rerank": reranked,
    "context": contexts,
}


def main() -> None:
    name, address, key, bot = sys.argv[1:]
    os.nice(NICE)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    where = urlsplit(address)
    target = Target(where.hostname or "127.0.0.1", where.port or 80, key, bot)
    threading.Thread(target=lambda: (sys.stdin.read(), target.over.set()), daemon=True).start()
    began = time.monotonic()
    running = ATTACKS[name](target)
    if running is not None:
        asyncio.run(_until_over(running))
    print(json.dumps({"seconds": time.monotonic() - began, "seen": target.seen}))


async def _until_over(running: Awaitable[None]) -> None:
    await running


if __name__ == "__main__":
    main()
