"""Whether how long an answer takes tells one account what another has stored: ``python -m scripts.cache_timing``.

Asks for the vectors of texts that another account has stored and of texts that nobody has ever sent, in turn, one by
one. Exits 1 when the ratio of the medians is outside of BOUNDS.
"""

import asyncio
import sys
import time
from statistics import median

from tqdm import tqdm

from scripts.benchmarks.http import Connection
from scripts.benchmarks.world import insert_paragraphs, new_bot
from scripts.demo_korquad import paragraphs
from scripts.own_server import own_folder, own_key, served_in

TEXTS = 200
BOUNDS = (0.9, 1.1)
MODEL = "use-multilingual"


async def measured(address: str, theirs: str, mine: str) -> tuple[float, float, float]:
    """Medians in ms: of another's texts, of nobody's, of one's own asked again."""
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


def main() -> int:
    with own_folder() as folder:
        keys = [own_key(folder, account, "write") for account in ("theirs", "mine")]
        with served_in(folder, AUTH_DISABLED="false") as server:
            stored, unsent, again = asyncio.run(measured(server.address, *keys))
    ratio = stored / unsent
    print(f"medians of {TEXTS}: another's {stored:.2f} ms, nobody's {unsent:.2f} ms, ratio {ratio:.3f}", end="; ")
    print(f"one's own again {again:.2f} ms")
    return 0 if BOUNDS[0] <= ratio <= BOUNDS[1] and again < unsent else 1


if __name__ == "__main__":
    sys.exit(main())
