"""Runs of several seeds, in a module that a worker process can import."""

from collections.abc import Iterable

from tests.simulation.run import simulate
from tests.simulation.world import Violation


def violation(seed: int, processes: int | None) -> tuple[str, list[str]] | None:
    """What this seed violates, and its history line by line; None when all is well."""
    try:
        simulate(seed, processes=processes)
    except Violation as found:
        return str(found), [" ".join(str(part) for part in event) for event in found.events]
    return None


def violations(seeds: Iterable[int], processes: int | None) -> tuple[int, list[tuple[int, str, list[str]]]]:
    count, found = 0, []
    for seed in seeds:
        count += 1
        if broken := violation(seed, processes):
            found.append((seed, *broken))
    return count, found
