"""One run: the seed draws the faults, the calls and their times. At the end the invariants are checked."""

import asyncio
from random import Random
from unittest.mock import patch

from app.core.bots import recent_vectors
from app.core.transfer import streams
from app.schemas.listing import Order
from app.schemas.quotas import Quota
from tests.simulation.faults import PATIENCE, Faults
from tests.simulation.invariants import check_history, check_loop, check_nothing_is_missing, check_rest
from tests.simulation.requests import ACCOUNTS
from tests.simulation.workload import EVERYTHING, Clients
from tests.simulation.world import Violation, World, internal_errors

CLIENTS, REQUESTS = 3, 8
EDITS = 0.4
"""How often it is followed by one that changes a part of a document, is conditional, or synchronizes a bot."""
TRANSFERS = 0.1
"""How often it is followed by an export, or an import that is sent again until it is answered."""
MORE = 0.25
"""How often a request is followed by one that lists, patches or deletes documents by filter."""
WARMS = 0.15
"""How often it is followed by one that warms a bot, if not all may be loaded."""
LOSSES = ("all", "one", "one", "some", "some")
RECENT = {"SHARED_CHUNKS": 2, "READ_CHUNKS": 5}
"""Limits that the documents of a run, of up to 4 chunks, exceed."""
BATCHES = {"BATCH_DOCUMENTS": 2}
"""So that a part has more than one batch."""
LIMITED = 0.2
"""How many runs have quotas."""
LONG = 120.0
"""Seconds after which a client that still waits counts as forgotten by the server."""


def simulate(seed: int, *, processes: int | None = None, keys: bool = True) -> World:
    """Runs to the end and returns the world. Raises Violation with the events of the run in ``events``.

    With ``keys``, some inserts are repeated with an Idempotency-Key. In every other run a deleted bot is created again
    with the same collection name. In every fifth run accounts have quotas. In two of five runs PostgreSQL is restored
    from a backup. In half of the others Milvus loses collections or rows. In half of all runs one collection may be
    loaded at a time, and others release some. The kept seeds of test_simulation.py are older than all that, and run
    without.
    """
    random = Random(seed)
    faults = Faults.drawn(random)
    restores = Random(f"restores {seed}").choice((0, 0, 0, 1, 2)) if keys else 0
    loses = keys and not restores and seed % 4 in (1, 2)
    bound = Random(f"bound {seed}").choice((0, 0, 1, 1)) if keys else 0
    number = processes or random.choice((1, 2, 2, 3))
    world = World(seed, faults, processes=number, reserved=not keys, loses=loses, bound=bound)
    try:
        with internal_errors() as errors, patch.multiple(recent_vectors, **RECENT), patch.multiple(streams, **BATCHES):
            if keys and (quotas := Random(f"quotas {seed}")).random() < LIMITED:
                for account in ACCOUNTS:
                    world.tables.quotas[account] = Quota(None, quotas.choice((None, 2, 4)), quotas.choice((4, 8)))
            clients = Clients(world, bots=random.choice((1, 2)), keys=keys, reuse_names=keys and seed % 2 == 1)
            if restores:
                world.at(random.random() * 6, world.back_up)
            drive(world, clients, random)
            for _ in range(restores):
                restore(world, clients, random)
                drive(world, clients, random)
            finish(world, clients)
            if errors:
                raise Violation(f"internal error: {errors[0].getMessage()} {errors[0].exc_info}")
    except Violation as violation:
        violation.events = world.history.events
        raise
    finally:
        world.close()
    return world


def drive(world: World, clients: Clients, random: Random) -> None:
    """Runs the clients while processes crash and pause and Milvus loses data."""
    for number in range(CLIENTS):
        world.client(client(world, clients, random, number))
    for _ in range(poisson(random, world.faults.crashes)):
        number = random.randrange(len(world.processes))
        world.at(random.random() * 8, lambda number=number: crash(world, number))  # type: ignore[misc]
        world.at(8 + random.random() * 6, lambda number=number: revive(world, number))  # type: ignore[misc]
    for _ in range(poisson(random, world.faults.pauses)):
        number, length = random.randrange(len(world.processes)), random.choice((0.5, 5.0, 9.0, 14.0))
        world.at(random.random() * 8, lambda number=number, length=length: pause(world, number, length))  # type: ignore[misc]
    if world.bound:
        released = Random(f"what others release in seed {world.seed}")
        for _ in range(released.choice((0, 1, 4))):
            bot = released.randrange(len(world.history.bots))
            world.at(released.random() * 12, lambda bot=bot: world.release(bot))  # type: ignore[misc]
    if world.loses:
        lost = Random(f"what seed {world.seed} loses")  # Drawn separately, so that other runs do not change.
        for _ in range(lost.choice((1, 1, 2))):
            how, bot = lost.choice(LOSSES), lost.randrange(len(world.history.bots))
            world.at(lost.random() * 12, lambda how=how, bot=bot: world.lose(how, bot))  # type: ignore[misc]
    world.run_clients(LONG)


def restore(world: World, clients: Clients, random: Random) -> None:
    """Makes a backup of PostgreSQL and restores one of all backups. Milvus stays as it is."""
    world.loop.run_until(lambda: False, world.loop.time() + 2 * PATIENCE)  # Waits for calls whose clients have ended.
    check_history(world.history)
    world.back_up()
    world.restore(random.randrange(len(world.backups)))
    clients.restart_history()


def finish(world: World, clients: Clients) -> None:
    """Ends all faults, waits until no work is left, and checks everything."""
    world.rest()
    if world.ever_restored:
        check_nothing_is_missing(world)
        world.client(clients.repair())
        world.run_clients(LONG)
        world.history.may_lack_vectors = False
        world.rest()
    check_rest(world)
    for bot in range(len(world.history.bots)):
        for doc_id in clients.doc_ids(bot):
            world.client(clients.get(bot, doc_id))
        world.client(clients.search(bot, EVERYTHING, None))
    world.client(clients.check())
    world.run_clients(LONG)
    check_rest(world)
    check_history(world.history)
    check_loop(world)


def poisson(random: Random, mean: float) -> int:
    count, left = 0, random.expovariate(1.0)
    while left < mean:
        count, left = count + 1, left + random.expovariate(1.0)
    return count


def crash(world: World, number: int) -> None:
    if not world.processes[number].dead:
        world.processes[number].crash()


def revive(world: World, number: int) -> None:
    if world.processes[number].dead:
        world.restart(number)


def pause(world: World, number: int, length: float) -> None:
    process = world.processes[number]
    if not process.dead:
        process.pause()
        world.at(length, process.resume)


async def client(world: World, clients: Clients, random: Random, number: int) -> None:
    bots = len(world.history.bots)
    for _ in range(20):
        if number >= bots or await clients.create(number):
            break
        await asyncio.sleep(0.5)
    more = Random(f"more {world.seed} {number}")  # Drawn separately, so that the kept seeds do not change.
    edits = Random(f"edits {world.seed} {number}")
    warms = Random(f"warms {world.seed} {number}")
    transfers = Random(f"transfers {world.seed} {number}")
    for _ in range(REQUESTS):
        await asyncio.sleep(random.expovariate(3.0))
        await step(clients, random, random.randrange(bots))
        if not world.reserved and more.random() < MORE:
            await by_filter(clients, more, more.randrange(bots))
        if not world.reserved and edits.random() < EDITS:
            await edit(clients, edits, edits.randrange(bots))
        if world.bound and warms.random() < WARMS:
            await clients.warm(warms.randrange(bots))
        if not world.reserved and transfers.random() < TRANSFERS:
            bot = transfers.randrange(bots)
            await (clients.export(bot) if transfers.random() < 0.5 else clients.load(bot, transfers))


async def by_filter(clients: Clients, random: Random, bot: int) -> None:
    known = clients.doc_ids(bot)
    some = random.sample(known, min(len(known), random.randint(1, 5)))
    what = random.random()
    if what < 0.4:
        await clients.walk(bot, Order(random.choice(("doc_id", "created_at")), random.random() < 0.5))
    elif what < 0.7 and some:
        await clients.patch_matching(bot, some)
    elif some:
        await clients.delete_matching(bot, some, random.randrange(2))


async def edit(clients: Clients, random: Random, bot: int) -> None:
    known = clients.doc_ids(bot)
    what = random.random()
    if what < 0.15:
        await clients.create_only(bot, random.randrange(2))
    elif what < 0.25:
        await clients.synchronize(bot, random)
    elif what < 0.6 and known:
        await clients.edit_chunk(bot, random.choice(known), random)
    elif known:
        await clients.modify(bot, random.choice(known[-3:]), random)


async def step(clients: Clients, random: Random, bot: int) -> None:
    if clients.upserts_now():
        await clients.upsert(bot)
        return
    known = clients.doc_ids(bot)
    what = random.random()
    if what < 0.22 or not known:
        await clients.insert(bot, random.randint(1, 4), bad=random.random() < 0.05)
    elif what < 0.28:
        bots = [random.randrange(len(clients.world.history.bots)) for _ in range(random.randint(1, 4))]
        await clients.insert_many(bots, random.randint(1, 2), {0} if random.random() < 0.2 else set())
    elif what < 0.48:
        await clients.replace(bot, random.choice(known), random.randint(1, 4))
    elif what < 0.54:
        await clients.patch(bot, random.choice(known))
    elif what < 0.63:
        await clients.delete(bot, random.sample(known, min(len(known), random.randint(1, 2))))
    elif what < 0.73:
        await clients.get(bot, random.choice(known))
    elif what < 0.93:
        kind = random.choice((None, None, 0, 1))
        await clients.search(bot, random.choice((EVERYTHING, EVERYTHING, 1, 3)), kind)
    elif what < 0.95:
        await clients.trespass(bot)
    elif what < 0.97:
        await clients.check()
    elif what < 0.985 or await clients.delete_bot(bot):
        await clients.create(bot)
