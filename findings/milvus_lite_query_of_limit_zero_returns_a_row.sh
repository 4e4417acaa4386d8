#!/usr/bin/env bash
# milvus-lite 3.2.2 through pymilvus 3.0.2.
#
# Guess: `query(limit=0)` returns no row or is refused, as `search(limit=0)` is.
# Seen: it returns one row. So does a negative limit. Code that computes the rest of a page (`limit=wanted - found`) gets
#   one row too many when nothing is left to fetch.
# Output:
#   query limit=2: 2 rows
#   query limit=0: 1 row
#   query limit=-1: 1 row
#   search limit=0: ParamError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pymilvus==3.0.2 milvus-lite==3.2.2
cat >"$folder/probe.py" <<'PY'
import logging
import sys

from pymilvus import MilvusClient, MilvusException

logging.disable(logging.CRITICAL)
client = MilvusClient(sys.argv[1])
client.create_collection("c", dimension=4)
client.insert("c", [{"id": number, "vector": [1, number, 0, 0]} for number in range(5)])
for limit in (2, 0, -1):
    rows = len(client.query("c", filter="id >= 0", limit=limit))
    print(f"query limit={limit}: {rows} row{'s' * (rows != 1)}")
try:
    client.search("c", [[1, 0, 0, 0]], limit=0)
except MilvusException as exc:
    print(f"search limit=0: {type(exc).__name__}")
client.close()
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" "$folder/lite.db" 2>/dev/null | tee "$folder/out"
diff "$folder/out" - <<'EXPECTED'
query limit=2: 2 rows
query limit=0: 1 row
query limit=-1: 1 row
search limit=0: ParamError
EXPECTED
