"""A folder of 964 documents, synchronized three times: all new, unchanged, and with some changed, gone and new.

Each document is a paragraph of KorQuAD in one chunk. Counts the texts that the server embeds, equal texts of a batch
once. Then a synchronization is killed in the middle and run again, and ``verify`` compares the stores. Exits 1 when a
count is not the right one or ``verify`` finds something.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from scripts.api_client import ApiClient
from scripts.benchmarks.figures import Table, markdown
from scripts.korquad import paragraphs
from scripts.own_server import environment_of, own_folder, server_in

BOT = str(UUID(int=1))
BATCH = 100
CHANGED, GONE, NEW = 10, 5, 5


def embedded_texts(url: str) -> float:
    with urllib.request.urlopen(f"{url}/metrics") as answer:  # noqa: S310 - our own address
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("chat_memory_embed_batch_texts_sum"))


def synchronize(server: ApiClient, texts: dict[str, str]) -> dict[str, int]:
    session = server.call("POST", "/data/sync", {"chat_bot_id": BOT})["session_id"]
    documents = [document(name, text) for name, text in texts.items()]
    counts: dict[str, int] = {}
    for first in range(0, len(documents), BATCH):
        path = f"/data/sync/{session}/documents?chat_bot_id={BOT}"
        answer = server.call("POST", path, {"documents": documents[first : first + BATCH]})
        for result in answer["results"]:
            counts[result["result"]] = counts.get(result["result"], 0) + 1
    body = {"chat_bot_id": BOT, "delete_missing": True}
    counts["deleted"] = server.call("POST", f"/data/sync/{session}/finish", body)["deleted_documents"]
    return counts


def document(name: str, text: str) -> dict[str, Any]:
    fields = {"chat_bot_id": BOT, "title": name, "external_id": name}
    return {"document": fields, "chunks": [{"chunk_index": 0, "text": text}]}


def killed(folder: Path, server: ApiClient, texts: dict[str, str], **settings: str) -> int:
    """Runs the command beside the server, kills it with SIGKILL when it has stored a third, and runs it to its end.

    Returns how many documents it had stored when it was killed.
    """
    path = folder / "documents.ndjson"
    path.write_text("\n".join(json.dumps(document(name, text)) for name, text in texts.items()), encoding="utf-8")
    command = [sys.executable, "-m", "app.cli", "sync", str(path), "--bot", BOT, "--delete-missing"]
    environment = environment_of(folder, **settings)
    since = {"type": "gte", "key": "updated_at", "value": datetime.now(UTC).isoformat()}
    stored = {"chat_bot_id": BOT, "filter": since, "limit": 1, "total": True}
    with subprocess.Popen(command, cwd=folder, env=environment) as process:
        while process.poll() is None:
            time.sleep(0.2)
            if server.call("POST", "/data/documents/query", stored)["total"] >= len(texts) // 3:
                process.send_signal(signal.SIGKILL)
                break
    at_the_kill: int = server.call("POST", "/data/documents/query", stored)["total"]
    subprocess.run(command, cwd=folder, env=environment, check=True)
    return at_the_kill


def measured(folder: Path, options: argparse.Namespace) -> tuple[Table, bool]:
    texts = {f"paragraph {item.number}": item.text for item in paragraphs()[: options.documents]}
    third = dict(list(texts.items())[GONE:])
    third |= {name: f"{text} 바뀌었다." for name, text in list(third.items())[:CHANGED]}
    third |= {f"new {number}": f"새 문서 {number}" for number in range(NEW)}
    note = f"{len(texts)} documents of one chunk, batches of {BATCH}, {options.embedder}, no embedding cache."
    table = Table("sync", "A folder synchronized three times", note=note)
    good, speeds = True, []
    settings = {"EMBEDDING_CACHE_MB": "0", "EMBEDDING_MODEL": options.embedder}
    with server_in(folder, **settings) as url:
        server = ApiClient(url)
        server.call("POST", "/collection/create", {"chat_bot_id": BOT, "bot_name": "sync", "collection_name": "sync"})
        for name, wanted, embedded in (
            ("first", texts, len(set(texts.values()))),
            ("unchanged", texts, 0),
            ("changed", third, CHANGED + NEW),
        ):
            before, began = embedded_texts(url), time.perf_counter()
            counts = synchronize(server, wanted)
            seconds = time.perf_counter() - began
            speeds.append(len(wanted) / seconds)
            found = embedded_texts(url) - before
            good &= found == embedded and counts["deleted"] == (GONE if wanted is third else 0)
            table.add(run=name, seconds=seconds, documents_per_second=speeds[-1], embedded=str(int(found)), **counts)
        good &= server.call("GET", f"/collection/{BOT}")["document_count"] == len(third)
        again = {name: f"{text} 다시." for name, text in texts.items()}
        at_the_kill = killed(folder, server, again, **settings)
        page = {"chat_bot_id": BOT, "limit": 1000}
        server = ApiClient(url)  # The server has closed the connection, which was idle.
        left = server.call("POST", "/data/documents/query", page)["documents"]
        good &= 0 < at_the_kill < len(again) and {one["external_id"] for one in left} == set(again)
    verify = [sys.executable, "-m", "app.cli", "verify"]
    good &= subprocess.run(verify, cwd=folder, env=environment_of(folder, **settings), check=False).returncode == 0
    table.note += f" Killed when {at_the_kill} of {len(again)} other texts were stored, and run again."
    table.note += f" The second is {speeds[1] / speeds[0]:.0f} times as fast as the first."
    return table, good


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--documents", type=int, default=964, help="(default: %(default)s)")
    parser.add_argument("--embedder", default="use-multilingual", help="EMBEDDING_MODEL (default: %(default)s)")


def main(options: argparse.Namespace) -> int:
    with own_folder() as folder:
        table, good = measured(folder, options)
    print(markdown(f"scripts/bench sync --documents {options.documents} --embedder {options.embedder}", [table]))
    print("as expected" if good else "not as expected")
    return int(not good)
