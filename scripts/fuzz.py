"""Runs Schemathesis against a server on embedded stores, with valid and invalid requests.

Phases: examples, coverage, fuzzing, stateful. A finding is a 5xx, a status, content type, header or body that the
OpenAPI document does not name, an invalid request that is accepted, or a deleted resource that can still be read. Of
the integrations' routes, which that document leaves out, only a 5xx is one. Exits 1 after the round in which something
was found.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from scripts.fuzz_integrations import document
from scripts.own_server import ROOT, own_folder, own_key, server_in

ACCOUNT = "chatty"
"""That of ``scripts/fuzz.toml``."""
BOT = "f0220000-0000-4000-8000-000000000001"
WORKERS = "1"
"""Threads of Schemathesis. Hypothesis sets the recursion limit of the whole process while a thread draws a value. With
two threads one can lower the limit while the other is deep in the recursive schema of a filter."""


def main() -> int:
    options = _options()
    statuses: Counter[str] = Counter()
    started, seed, findings = time.monotonic(), options.seed, False
    with ExitStack() as stack:
        folder = stack.enter_context(own_folder())
        key = own_key(folder, ACCOUNT, "admin")
        keys = {"FUZZ_KEY": key, "FUZZ_OPERATOR_KEY": own_key(folder, None, "operator"), "FUZZ_ACCOUNT": ACCOUNT}
        address = stack.enter_context(server_in(folder, AUTH_DISABLED="false"))
        while statuses.total() < options.requests and not findings:
            # Its cases do not depend on the seed: once is enough.
            phases = "examples,coverage,fuzzing,stateful" if seed == options.seed else "fuzzing,stateful"
            _store(address, key)
            integrations = folder / "integrations.json"
            integrations.write_text(json.dumps(document()), encoding="utf-8")
            no_answers_known = ("--checks", "not_a_server_error", "--url", address, "--header", f"X-API-Key: {key}")
            for schema, checks in ((f"{address}/openapi.json", ()), (str(integrations), no_answers_known)):
                counts = folder / f"{seed}.json"
                findings = not _round(schema, checks, keys, seed, phases, options.examples, counts) or findings
                statuses.update(json.loads(counts.read_text(encoding="utf-8")))
            seed += 1
    by_status = ", ".join(f"{count:,} x {status}" for status, count in sorted(statuses.items()))
    print(f"{statuses.total():,} requests in {time.monotonic() - started:.0f} s, seeds {options.seed} to {seed - 1}")
    print(by_status)
    print("findings: see above" if findings else "findings: none")
    return 1 if findings else 0


def _store(address: str, key: str) -> None:
    """Deletes what the last round left, and stores the bot and the documents that ``scripts/fuzz.toml`` names."""

    def call(method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "X-API-Key": key}
        request = urllib.request.Request(address + path, data, headers, method=method)  # noqa: S310 - our own address
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return json.load(answer)

    for bot in call("GET", "/collection/list")["bots"]:
        call("DELETE", f"/collection/{bot['chat_bot_id']}")
    documents = [
        {
            "document": {"chat_bot_id": BOT, "title": f"document {number}", "metadata": {"language": "ko"}},
            "chunks": [{"chunk_index": index, "text": f"chunk {index} of {number}"} for index in range(3)],
        }
        for number in range(20)
    ]
    call("POST", "/collection/create", {"chat_bot_id": BOT, "bot_name": "fuzz", "collection_name": "fuzz"})
    call("POST", "/data/insert/batch", {"documents": documents})


def _round(
    schema: str,
    checks: Sequence[str],
    keys: Mapping[str, str],
    seed: int,
    phases: str,
    examples: int,
    counts: Path,
) -> bool:
    """Whether the round found nothing. ``schema``: an OpenAPI document, as a file or an address. ``keys``: what
    ``scripts/fuzz_hooks.py`` reads."""
    schemathesis = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(ROOT / "scripts" / "fuzz.toml")]
    run = ["run", schema, *checks, "--phases", phases, "--seed", str(seed), "--max-examples", str(examples)]
    environment = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": "scripts.fuzz_hooks",
        "PYTHONPATH": str(ROOT),
        "FUZZ_STATUSES": str(counts),
        **keys,
    }
    done = subprocess.run(
        [*schemathesis, *run, "--workers", WORKERS, "--continue-on-failure", "--warnings", "off"],
        cwd=counts.parent,
        env=environment,
        check=False,
    )
    return done.returncode == 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000, help="at least (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=1, help="of the first round; each later one adds 1 (default: %(default)s)"
    )
    parser.add_argument(
        "--examples", type=int, default=200, help="of an operation in each phase (default: %(default)s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
