"""Runs several seeds. A module of its own, so that worker processes can import it."""

from collections.abc import Iterable

from tests.simulation.run import simulate
from tests.simulation.world import Violation


def violation(seed: int, processes: int | None) -> tuple[str, list[str]] | None:
    """The violation of this seed, and its history line by line; None without a violation."""
    try:
        simulate(seed, processes=processes)
    except Violation as found:
        return str(found), [" ".join(str(part) for part in event) for event in found.events]
    return None


def violations(seeds: Iterable[int], processes: int | None) -> tuple[int, list[tuple[int, str, list[str]]]]:
    """(number of seeds, [(seed, violation, history)])."""
    count, found = 0, []
    for seed in seeds:
        count += 1
        if broken := violation(seed, processes):
            found.append((seed, *broken))
    return count, found
