"""The time from the command to the first answer, and the memory of all processes."""

import time
from statistics import median

import psutil
from tqdm import tqdm

from scripts.benchmarks.figures import Table
from scripts.benchmarks.http import Connection
from scripts.benchmarks.memory import Memory, megabytes
from scripts.benchmarks.world import insert_paragraphs, new_bot
from scripts.korquad import paragraphs
from scripts.own_server import own_folder, served_in

SEARCHES = 200


async def measure(rounds: int) -> list[Table]:
    """Starts on the data of an earlier start, with embedded stores and the default embedder."""
    note = (
        f"Embedded, use-multilingual, on data of an earlier start. Medians of {rounds}; the first does not count. "
        f"The last one gets 964 paragraphs and, at once, {SEARCHES} questions in each mode, with nothing cached before."
    )
    table = Table("startup", "From command to first answer", note=note)
    seconds, most = [], 0.0
    times: dict[str, list[float]] = {"dense": [], "hybrid": []}
    with own_folder() as folder:
        for turn in tqdm(range(rounds + 1), desc="start", disable=None):
            began = time.perf_counter()
            with served_in(folder) as server:
                if turn:
                    seconds.append(time.perf_counter() - began)
                connection = await Connection.open(server.address)
                bot = await new_bot(connection)
                memory = Memory(psutil.Process(server.pid), folder)
                with memory.watched():
                    await insert_paragraphs(connection, bot, None if turn == rounds else 50)
                for item in paragraphs()[:SEARCHES] if turn == rounds else ():
                    for mode, taken in times.items():
                        body = {"chat_bot_id": bot, "query_text": item.questions[0], "limit": 5, "mode": mode}
                        began = time.perf_counter()
                        await connection.call("POST", "/search/query", body)
                        taken.append(1000 * (time.perf_counter() - began))
                most = max(most, memory.most_of_all, megabytes(server.pid, folder))
                connection.close()
    table.add(
        seconds_to_ready=median(seconds),
        least=min(seconds),
        most=max(seconds),
        **{f"{mode}_search_p50_ms": median(taken) for mode, taken in times.items()},
        peak_memory_of_all_MB=most,
    )
    return [table]
