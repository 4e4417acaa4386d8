"""Runs the core over simulated stores with faults that a seed draws, and checks its invariants.

The runs use all cores. A violation prints its seed and history, and the exit code is 1.
"""

import argparse
import os
import sys
import time
from functools import partial
from multiprocessing import get_context

from tqdm import tqdm

from tests.simulation.seeds import violations

BATCH = 20
REPORTED = 10


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many runs (default: %(default)s)")
    parser.add_argument("--start", type=int, default=0, help="the first seed (default: %(default)s)")
    parser.add_argument("--processes", type=int, help="server processes in each run; default: by the seed, 1 to 3")
    arguments = parser.parse_args()
    start, begin = arguments.start, time.perf_counter()
    last = start + arguments.seeds
    batches = [range(first, min(first + BATCH, last)) for first in range(start, last, BATCH)]
    found: list[tuple[int, str, list[str]]] = []
    cores = os.cpu_count() or 1
    with get_context("spawn").Pool(cores) as pool, tqdm(total=arguments.seeds, unit="seed", disable=None) as progress:
        for count, broken in pool.imap_unordered(partial(violations, processes=arguments.processes), batches):
            progress.update(count)
            found += broken
    for seed, message, events in sorted(found)[:1]:
        sys.stdout.write("\n".join(events) + f"\nseed {seed}: {message}\n")
    for seed, message, _ in sorted(found)[1:REPORTED]:
        sys.stdout.write(f"seed {seed}: {message}\n")
    seconds = time.perf_counter() - begin
    sys.stdout.write(
        f"{arguments.seeds} seeds in {seconds:.1f} s on {cores} cores, {arguments.seeds / seconds:.0f} a second: "
        f"{len(found)} violations\n"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
