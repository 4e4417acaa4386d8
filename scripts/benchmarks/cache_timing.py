"""Whether the time of an answer tells one account which texts another account has stored.

Asks for the vectors of texts that another account has stored and of texts that no account has sent, in turns, one by
one. Exits 1 when the ratio of the medians is outside of BOUNDS.
"""

import argparse
import asyncio
import time
from statistics import median

from tqdm import tqdm

from scripts.benchmarks.http import Connection
from scripts.benchmarks.world import insert_paragraphs, new_bot
from scripts.korquad import paragraphs
from scripts.own_server import own_folder, own_key, served_in

TEXTS = 200
BOUNDS = (0.9, 1.1)
MODEL = "use-multilingual"


async def measured(address: str, theirs: str, mine: str) -> tuple[float, float, float]:
    """Medians in ms: of another account's texts, of texts that are not stored, of the same texts asked again."""
    other, me = [await Connection.open(address, key) for key in (theirs, mine)]
    await insert_paragraphs(other, await new_bot(other), TEXTS)
    stored = [item.text for item in paragraphs()[:TEXTS]]
    # As long as the stored ones, in the same words.
    unsent = [" ".join(reversed(text.split(" "))) for text in stored]

    async def milliseconds(text: str) -> float:
        began = time.perf_counter()
        await me.call("POST", "/v1/embeddings", {"model": MODEL, "input": text})
        return 1000 * (time.perf_counter() - began)

    for text in ("warm", "up"):
        await milliseconds(text)
    times: tuple[list[float], list[float]] = ([], [])
    for pair in tqdm(list(zip(stored, unsent, strict=True)), desc="time", unit="pair", disable=None):
        for text, into in zip(pair, times, strict=True):
            into.append(await milliseconds(text))
    again = [await milliseconds(text) for text in stored]
    other.close()
    me.close()
    return median(times[0]), median(times[1]), median(again)


def add_options(parser: argparse.ArgumentParser) -> None:
    del parser  # It has none.


def main(_: argparse.Namespace) -> int:
    with own_folder() as folder:
        keys = [own_key(folder, account, "write") for account in ("theirs", "mine")]
        with served_in(folder, AUTH_DISABLED="false") as server:
            stored, unsent, again = asyncio.run(measured(server.address, *keys))
    ratio = stored / unsent
    print(f"medians of {TEXTS}: stored by another account {stored:.2f} ms, not stored {unsent:.2f} ms", end=", ")
    print(f"ratio {ratio:.3f}; asked again by the same account {again:.2f} ms")
    return 0 if BOUNDS[0] <= ratio <= BOUNDS[1] and again < unsent else 1
