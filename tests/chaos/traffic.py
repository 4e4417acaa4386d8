"""Several clients that send operations, drawn from the seed, until they are stopped or the server dies."""

import asyncio
from random import Random

import httpx

from tests.chaos.calls import World
from tests.chaos.client import Client
from tests.chaos.model import Bot, Document
from tests.chaos.parts import export, load_part

CLIENTS = 6
HOT_CLIENTS = 12
HOT_CHUNKS = 8
BOTS = 4
SET_UP_SECONDS = 120.0
MAX_BOTS = 6
MAX_DOCUMENTS = 25
WEIGHTS = {
    "insert": 10,
    "batch": 4,
    "load_part": 4,
    "replace": 10,
    "upsert": 6,
    "edit_chunk": 8,
    "patch": 5,
    "delete": 4,
    "delete_batch": 3,
    "patch_by_filter": 2,
    "sync": 2,
    "walk": 5,
    "export": 3,
    "insert_unembeddable": 1,
    "create_bot": 1,
    "delete_bot": 1,
    "search": 20,
    "warm": 2,
    "get": 15,
}


class Traffic:
    def __init__(
        self, world: World, http: httpx.AsyncClient, seed: str, first: tuple[str, ...] = (), hot: bool = False
    ) -> None:
        self._stop = False
        self._answers = 0
        self._world = world
        self._hot = hot
        self._tasks = [
            asyncio.create_task(self._work(Client(world, http, Random(f"{seed}/{number}")), first[number : number + 1]))
            for number in range(HOT_CLIENTS if hot else CLIENTS)
        ]
        self._ended = asyncio.gather(*self._tasks)
        """Done when all clients have ended, or when one of them has found a Violation, which it raises."""

    async def until(self, event: asyncio.Event, seconds: float) -> None:
        """Waits for the event or the end of all clients, at most ``seconds``. Raises the Violation of a client."""
        waiting = asyncio.create_task(event.wait())
        await asyncio.wait({waiting, self._ended}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._ended.done():
            await self._ended

    async def answers(self, count: int) -> None:
        """Waits until ``count`` more calls were answered or lost."""
        wanted = self._answers + count
        while self._answers < wanted and not self._ended.done():
            await asyncio.wait({self._ended}, timeout=0.01)
        if self._ended.done():
            await self._ended

    async def stop(self) -> None:
        """Stops the clients and waits until their last calls were answered or lost."""
        self._stop = True
        await self._ended

    async def _work(self, client: Client, first: tuple[str, ...]) -> None:
        names, weights = list(WEIGHTS), list(WEIGHTS.values())
        for name in first:
            await self._call(client, name)
        while self._hot and not (self._stop or client.gone):
            await client.batch(self._world.bots[:1] * 3, chunks=HOT_CHUNKS)
            self._answers += 1
        while not (self._stop or client.gone):
            await self._call(client, client.random.choices(names, weights)[0])
            self._answers += 1

    async def _call(self, client: Client, name: str) -> None:
        random = client.random
        bots = [bot for bot in self._world.bots if True in bot.exists.current()]
        if name == "create_bot" or not bots:
            if len(bots) < MAX_BOTS:
                await client.create_bot(self._world.new_bot())
            return
        bot = random.choice(bots)
        if name == "delete_bot":
            if len(bots) > BOTS:
                await client.delete_bot(bots[-1])
            return
        known = [document for document in bot.known() if document.content.current() != {None}]
        if name in ("insert", "batch", "load_part") and len(known) > MAX_DOCUMENTS:
            name = "delete_batch"
        if name == "insert":
            await client.insert(bot)
        elif name == "insert_unembeddable":
            await client.insert_unembeddable(bot)
        elif name == "batch":
            await client.batch(random.choices(bots, k=random.randint(2, 6)))
        elif name == "load_part":
            await load_part(client, bot)
        elif name == "search":
            await client.search(bot, random.choice(known) if known else None)
        elif name == "warm":
            await client.warm(bot)
        elif name == "walk":
            await client.walk(bot)
        elif name == "export":
            await export(client, bot)
        elif name == "sync":
            await client.synchronize(bot)
        elif known:
            await self._on_document(client, name, known)

    async def _on_document(self, client: Client, name: str, known: list[Document]) -> None:
        if name == "upsert":
            known = [document for document in known if document.external_id] or known
        document = client.random.choice(known)
        if name == "upsert" and document.external_id is None:
            name = "replace"
        if name in ("delete_batch", "patch_by_filter"):
            several = client.random.sample(known, min(len(known), 5))
            await (client.delete_batch if name == "delete_batch" else client.patch_by_filter)(several)
        else:
            calls = {
                "replace": client.replace,
                "upsert": client.upsert,
                "edit_chunk": client.edit_chunk,
                "patch": client.patch,
                "delete": client.delete,
                "get": client.get,
            }
            await calls[name](document)


async def set_up(world: World, http: httpx.AsyncClient, seed: str) -> list[Bot]:
    """Creates BOTS bots with one document each. When a store is too slow to create one, another bot is tried."""
    client = Client(world, http, Random(seed))
    made = 0
    async with asyncio.timeout(SET_UP_SECONDS):
        while made < BOTS:
            bot = world.new_bot()
            if await client.create_bot(bot):
                await client.insert(bot)
                made += 1
            elif client.gone:
                raise RuntimeError("the server died before the first bots were made")
    return world.bots
