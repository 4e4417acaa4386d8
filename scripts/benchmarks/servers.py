"""Several servers on one PostgreSQL and one Milvus server: what a request costs, and what restarts and upgrades break.

- throughput: searches, and an insert as every fourth call, with 1, 2 and 4 server processes; CPU of these alone
- writes: read by id and by search on one server as soon as the other has acknowledged them; those missed
- restart: two servers behind nginx, stopped and started in turn under load; failed requests
- upgrade: the same from another commit to this one, with the migration before it

The embedder is that of hashes, and for restart and upgrade a stub of a provider. Exits 1 if a write was missed or a
request failed. nginx: ``apt-get install nginx-light``.
"""

import argparse
import asyncio
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import orjson
import psutil
from tqdm import tqdm

from scripts.benchmarks.commits import Version, checked_out, this_version
from scripts.benchmarks.figures import Table, markdown
from scripts.benchmarks.http import Connection
from scripts.benchmarks.world import World, document, new_bot, opened_world
from scripts.own_server import environment_of, free_port, running

PARTS = ("throughput", "writes", "restart", "upgrade")
CLIENTS = 8
DOCUMENTS = 1_000
REQUESTS_A_CONNECTION = 500
"""nginx closes a connection after 1,000, by a header that this client does not read."""
DRAIN = {"DRAIN_SECONDS": "3"}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=15, help="of each number of processes (default: %(default)s)")
    parser.add_argument("--insert", type=int, default=4, metavar="N", help="every Nth call is one; 0: none")
    parser.add_argument("--writes", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3, help="restarts of both servers (default: %(default)s)")
    parser.add_argument("--old", default="HEAD", metavar="COMMIT", help="the commit that is upgraded from")


def main(options: argparse.Namespace) -> int:
    return asyncio.run(_measure(options))


async def _measure(options: argparse.Namespace) -> int:
    tables: list[Table] = []
    wrong = 0
    if {"throughput", "writes"} & set(options.only):
        async with opened_world("server", {"proxy.timeTickInterval": 50}) as world:
            if "throughput" in options.only:
                tables.append(await _throughput(world, options.processes, options.seconds, options.insert))
            if "writes" in options.only:
                table, missed = await _writes(world, options.writes)
                tables.append(table)
                wrong += missed
    rolling = Table("rolling", f"{CLIENTS} clients of nginx in front of two servers, Milvus server")
    if "restart" in options.only:
        wrong += await _roll(rolling, this_version(), this_version(), options.rounds)
    if "upgrade" in options.only:
        with tempfile.TemporaryDirectory(prefix="chat-bench-old-") as folder:
            wrong += await _roll(rolling, checked_out(options.old, Path(folder)), this_version(), 1)
    if rolling.rows:
        tables.append(rolling)
    sys.stdout.write(markdown(" ".join(["scripts/bench servers", *sys.argv[2:]]), tables))
    return int(wrong > 0)


# ---------------------------------------------------------------- side by side


async def _throughput(world: World, counts: Sequence[int], seconds: float, insert: int) -> Table:
    table = Table("servers", f"{CLIENTS} clients for each process, {DOCUMENTS} documents, no embedder, Milvus server")
    for count in counts:
        with ExitStack() as stack:
            urls = [stack.enter_context(world.api("hash")) for _ in range(count)]
            processes = [_process(url) for url in urls]
            setup = await Connection.open(urls[0])
            bot = await new_bot(setup)
            for start in range(0, DOCUMENTS, 100):
                batch = [document(bot, "t", f"text {number}") for number in range(start, start + 100)]
                await setup.call("POST", "/data/insert/batch", {"documents": batch})
            before, milliseconds = _cpu(processes), []
            began = time.perf_counter()
            clients = [_mixed(url, bot, insert, began + seconds, milliseconds) for url in urls for _ in range(CLIENTS)]
            await asyncio.gather(*clients)
            elapsed, spent = time.perf_counter() - began, _cpu(processes) - before
            milliseconds.sort()
            table.add(
                processes=count,
                requests_s=len(milliseconds) / elapsed,
                cpu_ms_a_request=spent * 1e3 / len(milliseconds),
                p50_ms=milliseconds[len(milliseconds) // 2],
                p95_ms=milliseconds[int(len(milliseconds) * 0.95)],
            )
    return table


async def _mixed(url: str, bot: str, insert: int, until: float, milliseconds: list[float]) -> None:
    connection, draw = await Connection.open(url), random.Random()
    number = 0
    while (began := time.perf_counter()) < until:
        number += 1
        if not insert or number % insert:
            body = {"chat_bot_id": bot, "query_text": f"text {draw.randrange(DOCUMENTS)}", "mode": "dense"}
            await connection.call("POST", "/search/query", body)
        else:
            await connection.call("POST", "/data/insert", document(bot, "t", uuid4().hex))
        milliseconds.append((time.perf_counter() - began) * 1e3)
    connection.close()


def _process(url: str) -> psutil.Process:
    """The server that listens there."""
    port = urlsplit(url).port
    for one in psutil.Process().children(recursive=True):
        if any(found.laddr.port == port and found.status == "LISTEN" for found in one.net_connections("tcp")):
            return one
    raise SystemExit(f"No process listens at {url}.")


def _cpu(processes: Sequence[psutil.Process]) -> float:
    times = [process.cpu_times() for process in processes]
    return sum(one.user + one.system for one in times)


async def _writes(world: World, count: int) -> tuple[Table, int]:
    missed: Counter[str] = Counter()
    progress = tqdm(total=count, desc="writes", disable=None, leave=False)
    with world.api("hash") as one, world.api("hash") as other:
        setup = await Connection.open(one)
        bot = await new_bot(setup)

        async def client() -> None:
            writer, reader = await Connection.open(one), await Connection.open(other)
            for _ in range(count // CLIENTS):
                text = uuid4().hex
                doc_id = (await writer.call("POST", "/data/insert", document(bot, "t", text)))["doc_id"]
                status, _ = await reader.send("GET", f"/data/document/{doc_id}?chat_bot_id={bot}", b"")
                missed["by id"] += status != 200
                query = {"chat_bot_id": bot, "query_text": text, "mode": "dense", "limit": 3}
                found = await reader.call("POST", "/search/query", query)
                missed["by search"] += doc_id not in {result["doc_id"] for result in found["results"]}
                progress.update()

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
    table = Table("writes", "written on one server, read at once on another")
    table.add(writes=count, missed_by_id=missed["by id"], missed_by_search=missed["by search"])
    return table, missed.total()


# ---------------------------------------------------------------- restarts and upgrades


class Load:
    """Clients of nginx. ``failures``: (phase, request, status and body, or what was raised)."""

    def __init__(self, url: str, bot: str) -> None:
        self._url = url
        self._bot = bot
        self.phase = ""
        self.answered: Counter[str] = Counter()
        self.failures: Counter[tuple[str, str, str]] = Counter()
        self.slowest: dict[str, float] = {}
        self.stopping = False

    async def run(self) -> None:
        await asyncio.gather(*map(self._client, range(CLIENTS)))

    async def _client(self, number: int) -> None:
        connection = await Connection.open(self._url)
        doc_id = sent = 0
        while not self.stopping:
            sent += 1
            if sent % REQUESTS_A_CONNECTION == 0:
                connection.close()
                connection = await Connection.open(self._url)
            call = ("search", "insert", "read", "replace")[number % 4]
            phase, began = self.phase, time.perf_counter()
            try:
                status, body = await self._send(connection, call, doc_id)
            except (ConnectionError, OSError) as exc:
                self.failures[phase, call, repr(exc)] += 1
                await asyncio.sleep(0.1)
                continue
            self.answered[phase] += 1
            self.slowest[phase] = max(self.slowest.get(phase, 0), time.perf_counter() - began)
            if status not in (200, 201):
                self.failures[phase, call, f"{status} {body[:300]!r}"] += 1
            elif call in ("insert", "replace") and not doc_id:
                doc_id = orjson.loads(body)["doc_id"]
        connection.close()

    async def _send(self, connection: Connection, call: str, doc_id: int) -> tuple[int, bytes]:
        if call == "search":
            body: object = {"chat_bot_id": self._bot, "query_text": "text"}
            return await connection.send("POST", "/search/query", orjson.dumps(body))
        if call == "read":
            return await connection.send("GET", f"/data/documents?chat_bot_id={self._bot}&limit=1", b"")
        body = orjson.dumps(document(self._bot, "t", uuid4().hex))
        if call == "replace" and doc_id:
            return await connection.send("PUT", f"/data/document/{doc_id}", body)
        return await connection.send("POST", "/data/insert", body)


class Server:
    """A server of one version at a fixed port. ``start`` returns when it is ready."""

    def __init__(self, folder: Path, port: int, settings: dict[str, str]) -> None:
        self._folder = folder
        self._port = port
        self._settings = settings
        self._running = ExitStack()

    async def start(self, version: Version) -> None:
        environment = environment_of(self._folder, PORT=str(self._port), **self._settings)
        environment["PYTHONPATH"] = str(version.tree)
        process = running(["app.serve"], self._folder, self._port, environment, version.python)
        await asyncio.to_thread(self._running.enter_context, process)

    async def stop(self) -> None:
        await asyncio.to_thread(self._running.close)


@contextmanager
def _nginx(port: int, servers: tuple[int, int]):  # type: ignore[no-untyped-def]
    from tests.nginx import PROGRAM, nginx

    if PROGRAM is None:
        raise SystemExit("restart and upgrade need nginx: apt-get install nginx-light")
    with nginx(port, servers) as url:
        yield url


@asynccontextmanager
async def _two_servers(old: Version) -> AsyncIterator[tuple[str, list[Server], dict[str, str], Path]]:
    """The address of nginx, the servers behind it, their settings and their folder."""
    async with opened_world("server", {"proxy.timeTickInterval": 50}) as world, AsyncExitStack() as stack:
        settings = {
            "POSTGRES_HOST": world.postgres.host,
            "POSTGRES_PORT": str(world.postgres.port),
            "POSTGRES_USER": world.postgres.user,
            "POSTGRES_DB_NAME": world.postgres.database,
            "MILVUS_URI": world.milvus_uri,
            "EMBEDDING_MODEL": "openai",
            "OPENAI_MODEL": "stub",
            "OPENAI_BASE_URL": world.stub,
            **DRAIN,
        }
        port, *ports = [free_port() for _ in range(3)]
        servers = [Server(world.folder, one, settings) for one in ports]
        for server in servers:
            stack.push_async_callback(server.stop)
            await server.start(old)
        yield stack.enter_context(_nginx(port, (ports[0], ports[1]))), servers, settings, world.folder


async def _roll(table: Table, old: Version, new: Version, rounds: int) -> int:
    """Replaces both servers, ``rounds`` times. Returns the number of failed requests."""
    upgrade = old.tree != new.tree
    async with _two_servers(old) as (url, servers, settings, folder):
        connection = await Connection.open(url)
        load = Load(url, await new_bot(connection))
        connection.close()
        load.phase = "before"
        running_load = asyncio.create_task(load.run())
        await asyncio.sleep(3)
        if upgrade:
            load.phase = "migration"
            environment = environment_of(folder, **settings)
            command = [new.python, "-m", "app.cli", "migrate"]
            await asyncio.to_thread(subprocess.check_call, command, cwd=folder, env=environment)
            await asyncio.sleep(3)
        for number in range(rounds):
            for place, server in enumerate(servers):
                load.phase = f"{number + 1}: server {place + 1}"
                await server.stop()
                await server.start(new)
                await asyncio.sleep(2)
        load.phase = "after"
        await asyncio.sleep(3)
        load.stopping = True
        await running_load
    for (phase, call, what), count in load.failures.items():
        print(f"{phase}: {call} failed {count} times: {what}", file=sys.stderr)
    table.add(
        what=f"upgrade from {old.commit} to {new.commit}" if upgrade else f"restart, {rounds} times",
        requests=load.answered.total(),
        failed=load.failures.total(),
        slowest_s=max(load.slowest.values()),
    )
    return load.failures.total()
