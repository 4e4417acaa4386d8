"""Two server processes behind a PgBouncer in transaction mode."""

import asyncio
from contextlib import ExitStack

from scripts.own_server import own_folder, server_in
from tests.operations.shared_load import HASHES, at, load, poolers
from tests.pgbouncer import needs_pgbouncer

CALLS = 400


@needs_pgbouncer
def test_two_processes_on_two_server_connections_never_mix_answers() -> None:
    """``python -m tests.operations.shared_load --calls 20000`` does the same for longer."""
    with poolers() as (_, pooled), own_folder() as folder, ExitStack() as stack:
        addresses = [stack.enter_context(server_in(folder, HASHES, **at(pooled))) for _ in range(2)]
        statuses, wrong = asyncio.run(load(addresses, CALLS, clients=8, seed=18))
    assert wrong == []
    assert sum(statuses.values()) >= CALLS
    assert set(statuses) == {200, 201}
