"""Draws what happens in each round from the seed."""

from dataclasses import dataclass
from random import Random

from app.utils.failpoints import POINTS
from tests.chaos.breaks import LITE_FULL_DISK, LITE_WRITE_LOCK
from tests.chaos.fault import Fault

TRAFFIC_SECONDS = 1.5
"""When the fail point is not reached in this time, the server is killed without it."""
FAULT_SECONDS = 30.0
"""How long a round waits for a fault that it needs. How soon it happens depends on the machine."""
SERVED = tuple(point for point in POINTS if not point.startswith("repair."))
"""The fail points that a server passes. Repair is a command, which test_failpoints.py kills."""


@dataclass(frozen=True, slots=True)
class FullDisk:
    """The stores' disk has ``spare`` free bytes for ``seconds``, in which the store ``kill`` is killed.

    ``serving``: the server still runs when the disk has space again. ``answers``: how many calls must be answered
    before that, and again after it.
    """

    spare: int
    seconds: float
    kill: str | None
    serving: bool
    answers: int = 0


@dataclass(frozen=True, slots=True)
class Round:
    """``fault`` is armed while clients work, ``restart`` in the server that recovers. ``store`` is killed as well."""

    number: int
    fault: Fault | None
    kill_after: float
    restart: Fault | None = None
    store: str | None = None
    first: tuple[str, ...] = ()
    """Operations that clients begin with, so that the fail point is passed."""
    pause: bool = False
    hot: bool = False
    """All clients insert into one bot as fast as they can."""
    answers: int = 0
    """The kill waits for the fault and then for so many more answers, however long they take."""
    full_disk: FullDisk | None = None

    @property
    def kills(self) -> int:
        return 0 if self.pause else 2 if self.restart else 1


DISK_FULL = "disk-full"
FULL_DISK_SHARE = 0.05


def plan_round(
    seed: int,
    number: int,
    stores: tuple[str, ...],
    broken: str | None,
    *,
    only: str | None = None,
    small_disk: bool = False,
) -> Round:
    """``small_disk``: whether the stores' disk can be made full. ``only``: DISK_FULL for only such rounds."""
    random = Random(f"{seed}/{number}")
    moment = random.uniform(0.1, 0.7)
    if broken == LITE_FULL_DISK:
        full = FullDisk(random.randint(0, 32) * 4096, 2.0, None, serving=True, answers=40)
        return Round(number, None, moment, store="lite_server", hot=True, full_disk=full)
    if only == DISK_FULL:
        return _full_disk(seed, number)
    if small_disk and broken is None and Random(f"{seed}/{number}/disk").random() < FULL_DISK_SHARE:
        return _full_disk(seed, number)
    if broken == "lease-check":
        return Round(number, Fault("pause", "write.before_t2", 1), FAULT_SECONDS, pause=True)
    if broken == "gc-once":
        return Round(number, Fault("late upsert", nth=2, seconds=None), moment, answers=1)
    if broken == LITE_WRITE_LOCK:
        return Round(number, None, moment, store="lite_server", hot=True, answers=40)
    if broken == "generation-join":
        return Round(number, Fault("delay", "write.before_t2", random.randint(1, 5), None), moment, answers=120)
    choice = random.random()
    if choice < 0.08:
        return Round(number, None, moment, store=random.choice(stores), hot=random.random() < 0.3)
    if choice < 0.13:
        return Round(
            number, Fault("pause", random.choice(("write.before_upsert", "write.before_t2"))), moment, pause=True
        )
    if choice < 0.35:
        faults = (
            None,
            Fault("late upsert", nth=random.randint(1, 10), seconds=random.uniform(0.05, 0.4)),
            Fault("lost upsert", nth=random.randint(1, 10)),
            Fault("delay", random.choice(POINTS), random.randint(1, 5), random.uniform(0.1, 0.5)),
        )
        return Round(number, random.choice(faults), moment)
    point = SERVED[number % len(SERVED)]
    if point.startswith("recovery."):
        # The first server dies during a write, so that the second has something to recover.
        before = "bot_create.after_register" if point == "recovery.after_claim" else "write.before_upsert"
        return Round(number, Fault("crash", before), moment, Fault("crash", point, 1), first=_operations(before))
    nth = 1 if point.startswith("bot_") else random.choice((1, 1, 2, 3, 5))
    return Round(number, Fault("crash", point, nth), TRAFFIC_SECONDS, first=_operations(point))


def _full_disk(seed: int, number: int) -> Round:
    random = Random(f"{seed}/{number}/full disk")
    disk = FullDisk(
        spare=random.choice((0, random.randint(1, 20), random.randint(20, 200))) * 4096,
        seconds=random.uniform(0.3, 2.0),
        kill=random.choice((None, None, "lite_server", "lite_server", "postgres", "keeper", "all stores")),
        serving=random.random() < 0.7,
    )
    return Round(number, None, random.uniform(0.1, 0.7), hot=random.random() < 0.3, full_disk=disk)


def _operations(point: str) -> tuple[str, ...]:
    operation = point.split(".")[0]
    if point.endswith("_compensate"):
        return ("insert_unembeddable",)
    return {"bot_create": ("create_bot",), "bot_delete": ("delete_bot",), "delete": ("delete",)}.get(operation, ())
