"""Two server processes on the same two server connections of a PgBouncer: a mixed load with every answer checked.

    python -m tests.operations.shared_load --calls 20000      statuses, and answers that belong to another caller
    python -m tests.operations.shared_load --pairs 1000       searches through it and directly, taking turns

With the hash embedder; PostgreSQL is the embedded one, Milvus is Milvus Lite.
"""

import argparse
import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from uuid import uuid4

import asyncpg
import httpx
from tqdm import tqdm

from app.core.stores.address import PostgresAddress
from scripts.own_server import own_folder, server_in
from tests.conftest import embedded_postgres
from tests.pgbouncer import pgbouncer

HASHES = "scripts.benchmarks.hash_app:app"
SETTINGS = {
    "jit": "off",
    "enable_memoize": "off",
    "statement_timeout": "15000",
    "lock_timeout": "5000",
    "idle_in_transaction_session_timeout": "20000",
}


@dataclass
class Client:
    """One caller with its own bot, who knows what each answer must be. Its calls go to the servers in turn."""

    https: Sequence[httpx.AsyncClient]
    draw: random.Random
    bot: str = field(default_factory=lambda: str(uuid4()))
    documents: dict[int, tuple[str, list[str]]] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    _calls: int = 0

    async def call(self, method: str, path: str, body: object = None, **query: object) -> dict[str, object] | None:
        """The answer, or None where it is not a success."""
        self._calls += 1
        http = self.https[self._calls % len(self.https)]
        answer = await http.request(method, path, json=body, params=query or None)  # type: ignore[arg-type]
        self.statuses[answer.status_code] += 1
        if not answer.is_success:
            self.wrong.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
        return answer.json() if answer.is_success else None

    async def begin(self) -> None:
        name = f"c_{self.bot.replace('-', '')}"
        body = {"chat_bot_id": self.bot, "bot_name": "b", "collection_name": name}
        await self.call("POST", "/collection/create", body)
        for _ in range(3):
            await self.insert()

    async def step(self) -> None:
        draw = self.draw.random()
        if draw < 0.5:
            await self.search()
        elif draw < 0.65:
            await self.read()
        elif draw < 0.75:
            await self.list()
        elif draw < 0.83 or len(self.documents) < 4:
            await self.insert()
        elif draw < 0.91:
            await self.replace()
        elif draw < 0.95:
            await self.patch()
        else:
            await self.delete()

    def _new(self) -> tuple[str, list[str]]:
        return f"title {uuid4()}", [f"{self.bot} {uuid4()}" for _ in range(self.draw.randint(1, 4))]

    def _any(self) -> int:
        return self.draw.choice(list(self.documents))

    def _body(self, title: str, texts: Sequence[str]) -> dict[str, object]:
        chunks = [{"chunk_index": number, "text": text} for number, text in enumerate(texts)]
        return {"document": {"chat_bot_id": self.bot, "title": title}, "chunks": chunks}

    async def insert(self) -> None:
        title, texts = self._new()
        if answer := await self.call("POST", "/data/insert", self._body(title, texts)):
            self.documents[answer["doc_id"]] = (title, texts)  # type: ignore[index]

    async def replace(self) -> None:
        doc_id, (title, texts) = self._any(), self._new()
        if await self.call("PUT", f"/data/document/{doc_id}", self._body(title, texts)):
            self.documents[doc_id] = (title, texts)

    async def patch(self) -> None:
        doc_id, title = self._any(), f"title {uuid4()}"
        body = {"chat_bot_id": self.bot, "metadata_updates": {"title": title}}
        if await self.call("PATCH", f"/data/document/{doc_id}/metadata", body):
            self.documents[doc_id] = (title, self.documents[doc_id][1])

    async def delete(self) -> None:
        doc_id = self._any()
        if await self.call("DELETE", f"/data/document/{doc_id}", chat_bot_id=self.bot):
            del self.documents[doc_id]

    async def read(self) -> None:
        doc_id = self._any()
        if answer := await self.call("GET", f"/data/document/{doc_id}", chat_bot_id=self.bot):
            self._compare(doc_id, answer["document"]["title"], [chunk["text"] for chunk in answer["chunks"]])  # type: ignore

    async def list(self) -> None:
        if answer := await self.call("GET", "/data/documents", chat_bot_id=self.bot, limit=100):
            titles = {one["doc_id"]: one["title"] for one in answer["documents"]}  # type: ignore[attr-defined]
            if titles != {doc_id: title for doc_id, (title, _) in self.documents.items()}:
                self.wrong.append(f"the list of bot {self.bot} has others' documents, or not all of its own")

    async def search(self) -> None:
        doc_id = self._any()
        text = self.draw.choice(self.documents[doc_id][1])
        body = {"chat_bot_id": self.bot, "query_text": text, "mode": "dense", "limit": 20}
        if answer := await self.call("POST", "/search/query", body):
            results = answer["results"]
            if text not in [result["chunk_text"] for result in results]:  # type: ignore[attr-defined]
                self.wrong.append(f"a search does not find {text}")
            for result in results:  # type: ignore[attr-defined]
                title, texts = self.documents.get(result["doc_id"], ("", []))
                if result["chunk_text"] not in texts or result["document"]["title"] != title:
                    self.wrong.append(f"a search of bot {self.bot} shows {result}")

    def _compare(self, doc_id: int, title: str, texts: Sequence[str]) -> None:
        if (title, list(texts)) != self.documents[doc_id]:
            self.wrong.append(f"document {doc_id} of bot {self.bot} is {title}, {texts}")


async def load(addresses: Sequence[str], calls: int, clients: int, seed: int) -> tuple[Counter[int], list[str]]:
    """How often each status came, and what was wrong."""
    async with AsyncExitStack() as stack:
        https = [await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=60)) for url in addresses]
        callers = [Client(https, random.Random(seed + number)) for number in range(clients)]
        await asyncio.gather(*(caller.begin() for caller in callers))
        with tqdm(total=calls, desc="calls", disable=None) as progress:
            left = iter(range(calls))

            async def run(caller: Client) -> None:
                for _ in left:
                    await caller.step()
                    progress.update()

            await asyncio.gather(*(run(caller) for caller in callers))
    statuses = sum((caller.statuses for caller in callers), Counter[int]())
    return statuses, [line for caller in callers for line in caller.wrong]


@contextmanager
def poolers(pool_size: int = 2) -> Iterator[tuple[PostgresAddress, PostgresAddress]]:
    """A PostgreSQL, and the PgBouncer before it. The database rag_db_chatty is there, the role has its settings."""
    with embedded_postgres() as server:
        asyncio.run(_prepare(server))
        direct = replace(server, database="rag_db_chatty")
        with pgbouncer(direct, default_pool_size=pool_size) as pooled:
            yield direct, pooled


async def _prepare(server: PostgresAddress) -> None:
    admin = await asyncpg.connect(host=server.host, port=server.port, user=server.user, database=server.database)
    await admin.execute("CREATE DATABASE rag_db_chatty TEMPLATE template0 ENCODING 'UTF8'")
    for name, value in SETTINGS.items():
        await admin.execute(f"ALTER ROLE {server.user} IN DATABASE rag_db_chatty SET {name} = {value}")
    await admin.close()


def at(address: PostgresAddress) -> dict[str, str]:
    return {"POSTGRES_HOST": address.host, "POSTGRES_PORT": str(address.port), "POSTGRES_USER": address.user}


async def pairs(through: str, direct: str, count: int) -> None:
    """A search by each in turn, in the same bot."""
    async with (
        httpx.AsyncClient(base_url=through, timeout=60) as first,
        httpx.AsyncClient(base_url=direct, timeout=60) as second,
    ):
        caller = Client([second], random.Random(1))
        await caller.begin()
        for _ in range(100):
            await caller.insert()
        taken: tuple[list[float], list[float]] = ([], [])
        for number in tqdm(range(count + 50), desc="pairs", disable=None):
            text = caller.draw.choice(caller.documents[caller._any()][1])
            body = {"chat_bot_id": caller.bot, "query_text": text, "mode": "dense", "limit": 5}
            order = (0, 1) if number % 2 else (1, 0)
            for which in order:
                began = time.perf_counter()
                answer = await (first, second)[which].post("/search/query", json=body)
                if number >= 50:
                    taken[which].append(1000 * (time.perf_counter() - began))
                assert answer.status_code == 200, answer.text
    pooled, alone = median(taken[0]), median(taken[1])
    ratio = median(one / other for one, other in zip(*taken, strict=True))
    print(f"search p50 through PgBouncer {pooled:.2f} ms, directly {alone:.2f} ms: {pooled / alone:.2f}")
    print(f"median of the pairs' ratios {ratio:.2f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    with poolers() as (direct, pooled), own_folder() as folder, contextlib.ExitStack() as stack:
        Path(folder).chmod(0o755)
        first = stack.enter_context(server_in(folder, HASHES, **at(pooled)))
        if chosen.calls:
            second = stack.enter_context(server_in(folder, HASHES, **at(pooled)))
            began = time.perf_counter()
            statuses, wrong = asyncio.run(load([first, second], chosen.calls, chosen.clients, chosen.seed))
            seconds = time.perf_counter() - began
            print(f"{sum(statuses.values())} calls in {seconds:.0f} s: {dict(sorted(statuses.items()))}")
            print(*wrong[:20], f"{len(wrong)} wrong", sep="\n")
            return 1 if wrong else 0
        alone = stack.enter_context(server_in(folder, HASHES, **at(direct)))
        asyncio.run(pairs(first, alone, chosen.pairs))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
