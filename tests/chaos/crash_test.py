"""Kills a server under load at random moments and checks its stores after each restart.

    scripts/crash-test --kills 1000 --seed 1

The same seed plans the same operations and kills. When each happens depends on the timing of the machine.
"""

import argparse
import asyncio
import logging
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from signal import SIGCONT

import httpx
from tqdm import tqdm

from tests.chaos.breaks import NAMES
from tests.chaos.calls import World
from tests.chaos.client import Client
from tests.chaos.fault import Fault
from tests.chaos.model import Violation
from tests.chaos.parts import send_again
from tests.chaos.plan import DISK_FULL, FAULT_SECONDS, FullDisk, Round, plan_round
from tests.chaos.processes import Api, StoreProcesses, config_for, store_processes
from tests.chaos.rest_check import RestCheck
from tests.chaos.traffic import CLIENTS, Traffic, set_up

READS_AT_REST = 24
RECOVERY_SECONDS = 3.0
"""How long the second server of a round may take to reach its fail point."""


@dataclass
class Tally:
    kills: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    started: float = field(default_factory=time.monotonic)

    @property
    def total(self) -> int:
        return sum(self.kills.values())


class CrashTest:
    def __init__(
        self, stores: StoreProcesses, folder: Path, seed: int, broken: str | None, only: str | None = None
    ) -> None:
        self._stores = stores
        self._folder = folder
        self._seed = seed
        self._broken = broken
        self._only = only
        self._check = RestCheck(stores)
        self._open = AsyncExitStack()
        self._api: Api
        self._http: httpx.AsyncClient
        self.world = World(Random(seed))
        self.tally = Tally()

    async def open(self) -> None:
        await self._start(None)
        await self._check.reconnect()
        await set_up(self.world, self._http, f"{self._seed}/set-up")

    async def close(self) -> None:
        await self._check.close()
        await self._open.aclose()

    @property
    def lacks_disk(self) -> bool:
        """Whether rounds with a full disk are left out although the stores are embedded."""
        return self._stores.disk is None and self._stores.milvus_uri.startswith("unix:")

    def plan(self, number: int) -> Round:
        can_be_full = self._stores.disk is not None
        killable = self._stores.killable
        return plan_round(self._seed, number, killable, self._broken, only=self._only, small_disk=can_be_full)

    async def round(self, number: int) -> None:
        """Traffic, a fault, a kill, recovery and all checks. Raises Violation."""
        plan = self.plan(number)
        traffic = Traffic(self.world, self._http, f"{self._seed}/{number}", plan.first, plan.hot)
        self._api.arm(plan.fault)
        others = asyncio.create_task(self._release_some(Random(f"{self._seed}/{number}/others")))
        try:
            if plan.answers:
                await self._wait_for_fault_and_answers(traffic, plan)
            else:
                event = self._api.stopped if plan.pause else self._api.dead
                await traffic.until(event, plan.kill_after)
            if plan.pause and self._api.reached:
                await self._outlive_lease(traffic)
            if plan.full_disk:
                await self._fill_disk(plan.full_disk, traffic)
        finally:
            others.cancel()
            await self._kill(plan)
            await traffic.stop()
        if plan.full_disk:
            await self._free_disk(plan.full_disk)
        if plan.store:
            await self._stores.kill(plan.store)
        if plan.restart:
            await self._start(plan.restart)
            await self._wait(self._api.dead, RECOVERY_SECONDS)
            await self._kill(replace(plan, fault=plan.restart, store=None))
        await self._start(None)
        if plan.store or plan.full_disk:
            await self._check.reconnect()
        await self._send_again()
        await self._check_at_rest()

    async def _release_some(self, random: Random) -> None:
        """Another program releases collections of bots; not in every round."""
        if self._broken is not None or random.random() < 0.5:
            return
        while True:
            await asyncio.sleep(random.uniform(0.1, 1.5))
            await self._check.release_some(random)
            self.tally.faults["released by another program"] += 1

    async def _send_again(self) -> None:
        unanswered, self.world.unanswered = self.world.unanswered, []
        client = Client(self.world, self._http, Random(f"{self._seed}/again"))
        await asyncio.gather(*(client.send_again(call) for call in unanswered))
        parts, self.world.cut_parts = self.world.cut_parts, []
        await asyncio.gather(*(send_again(client, part) for part in parts))

    async def _wait_for_fault_and_answers(self, traffic: Traffic, plan: Round) -> None:
        """Waits for the fault and then for ``plan.answers`` more answers, however long that takes."""
        if plan.fault:
            await traffic.until(self._api.stopped, FAULT_SECONDS)
        await traffic.answers(plan.answers)
        self._api.resume()
        await traffic.until(self._api.dead, plan.kill_after)

    async def _outlive_lease(self, traffic: Traffic) -> None:
        """The process is paused for longer than its lease, another server compensates its work, then it goes on."""
        self.tally.faults[f"paused at {self._api.reached}"] += 1
        self._api.reached = None
        config = config_for(self._stores, self._folder, self._broken, name="other")
        async with _serving(config.armed, self._stores, self._folder, self._broken, "other") as (other, _):
            await asyncio.sleep(2 * config.lease + config.late_write_window)
            await self._check.recovered()
            self._api.signal(SIGCONT)
            await traffic.answers(3 * CLIENTS)  # The answer of the paused write is among them.
            await other.kill()

    async def _fill_disk(self, plan: FullDisk, traffic: Traffic) -> None:
        disk = self._stores.disk
        if disk is None:
            raise RuntimeError("mounting a disk that can be made full needs root")
        await asyncio.to_thread(disk.fill, plan.spare)
        await traffic.until(self._api.dead, plan.seconds / 2)
        if plan.kill:
            self._stores.kill_processes(plan.kill)
        await traffic.until(self._api.dead, plan.seconds / 2)
        await traffic.answers(plan.answers)
        self.tally.faults[f"disk full{f', {plan.kill} killed' if plan.kill else ''}, later free"] += 1
        if plan.serving:
            await self._free_disk(plan)
            await traffic.until(self._api.dead, plan.seconds)
            await traffic.answers(plan.answers)

    async def _free_disk(self, plan: FullDisk) -> None:
        """Returns when the stores answer again, without a restart by the test."""
        assert self._stores.disk is not None
        await asyncio.to_thread(self._stores.disk.free)
        await self._stores.wait_until_back(plan.kill or "")

    async def _kill(self, plan: Round) -> None:
        reached = self._api.dead.is_set() and self._api.reached
        await self._api.kill()
        self._api.assert_killed()
        self.tally.kills[reached or (f"random, with {plan.store}" if plan.store else "random")] += 1
        if plan.fault and plan.fault.kind not in ("crash", "pause"):
            self.tally.faults[plan.fault.kind] += 1

    async def _start(self, armed: Fault | None) -> None:
        await self._open.aclose()
        serving = _serving(armed, self._stores, self._folder, self._broken, "api")
        self._api, self._http = await self._open.enter_async_context(serving)

    async def _check_at_rest(self) -> None:
        await self._check.drained()
        touched = [
            document
            for bot in self.world.bots
            for document in bot.documents.values()
            if document.content.touched or document.patch.touched
        ]
        self.world.bots = await self._check.check(self.world.bots)
        client = Client(self.world, self._http, Random(f"{self._seed}/rest"))
        stored = [document for document in touched if document.bot in self.world.bots and document.doc_id]
        for document in stored[:READS_AT_REST]:
            await client.get(document)
            if document.label in document.bot.documents:
                await client.search(document.bot, document)
        if client.gone:
            raise RuntimeError(f"the server died by itself; see {self._folder}/api.log")

    @staticmethod
    async def _wait(event: asyncio.Event, seconds: float) -> None:
        try:
            await asyncio.wait_for(event.wait(), seconds)
        except TimeoutError:
            return


@asynccontextmanager
async def _serving(
    armed: Fault | None, stores: StoreProcesses, folder: Path, broken: str | None, name: str
) -> AsyncIterator[tuple[Api, httpx.AsyncClient]]:
    config = replace(config_for(stores, folder, broken, name=name), armed=armed)
    config.socket.unlink(missing_ok=True)
    api = Api(config)
    transport = httpx.AsyncHTTPTransport(uds=str(config.socket))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://server", timeout=30) as http:
            if not await api.ready() and armed is None:
                raise RuntimeError(f"the server did not start; see {config.log}")
            yield api, http
    finally:
        await api.kill()


async def crash_test(
    kills: int,
    seed: int,
    milvus: str = "lite",
    broken: str | None = None,
    only: str | None = None,
    *,
    quiet: bool = False,
) -> tuple[Violation | None, CrashTest]:
    """Runs until ``kills`` kills have happened or an invariant is violated."""
    folder = Path(tempfile.mkdtemp(prefix="crash-test-"))
    violation = None
    async with store_processes(folder, milvus, broken) as stores:
        test = CrashTest(stores, folder, seed, broken, only)
        try:
            await test.open()
            with tqdm(total=kills, unit="kill", disable=quiet) as bar:
                number = 0
                while test.tally.total < kills and violation is None:
                    try:
                        await test.round(number)
                    except Violation as found:
                        violation = found
                        violation.add_note(f"round {test.plan(number)}")
                    number += 1
                    bar.update(test.tally.total - bar.n)
        finally:
            await test.close()
    if violation is None:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        violation.add_note(f"its files: {folder}")
    return violation, test


def _summary(test: CrashTest, seed: int, violation: Violation | None) -> str:
    tally, world = test.tally, test.world
    at_points = {point: count for point, count in tally.kills.items() if not point.startswith("random")}
    lines = [
        f"seed {seed}: {tally.total} kills, {sum(at_points.values())} of them at {len(at_points)} fail points",
        *(f"  {count:5} {name}" for name, count in sorted(tally.kills.items())),
        *(f"  {count:5} faults: {name}" for name, count in sorted(tally.faults.items())),
        f"{world.operations} writes ({world.acknowledged} acknowledged, {world.doubts} in doubt), {world.reads} reads, "
        f"{world.whole_exports} whole exports",
        f"{world.sent_again} unanswered writes sent again, by their Idempotency-Key or as a part of a stream",
        *(["the disk was never full: mounting one needs root"] if test.lacks_disk else []),
        f"{int(violation is not None)} violations, {time.monotonic() - tally.started:.0f} s",
    ]
    return "\n".join(lines)


def main() -> int:
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    parser = argparse.ArgumentParser(prog="scripts/crash-test", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="(default: the time)")
    parser.add_argument("--milvus", choices=("lite", "server"), default="lite", help="(default: %(default)s)")
    parser.add_argument("--break", dest="broken", choices=NAMES, help="break this line of the design on purpose")
    parser.add_argument("--only", choices=(DISK_FULL,), help="only rounds with this fault")
    options = parser.parse_args()
    violation, test = asyncio.run(crash_test(options.kills, options.seed, options.milvus, options.broken, options.only))
    print(_summary(test, options.seed, violation))
    if violation is None:
        return 0
    print(f"VIOLATION with seed {options.seed}, {', '.join(violation.__notes__)}: {violation}", file=sys.stderr)
    for line in violation.history.lines if violation.history else ():
        print(f"  {line}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
