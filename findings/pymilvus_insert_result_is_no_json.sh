#!/usr/bin/env bash
# pymilvus 3.0.2 with milvus-lite 3.2.2.
#
# Guess: MilvusClient.insert() returns a dict of plain values, which a handler may send as JSON.
# Seen: `ids` is a protobuf container that prints as a list and is none: json.dumps raises TypeError; list(..) is
#   needed.
# Output:
#   printed: [1] list: False
#   json.dumps: Object of type RepeatedScalarContainer is not JSON serializable
#   as a list: [1]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pymilvus==3.0.2 milvus-lite==3.2.2
cat >"$folder/probe.py" <<'PY'
import json
import sys

from pymilvus import MilvusClient

client = MilvusClient(sys.argv[1] + "/lite.db")
client.create_collection("docs", dimension=2)
done = client.insert("docs", [{"id": 1, "vector": [1.0, 0.0]}])
print("printed:", done["ids"], "list:", isinstance(done["ids"], list))
try:
    json.dumps(done)
except TypeError as exc:
    print("json.dumps:", exc)
print("as a list:", json.dumps(list(done["ids"])))
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" "$folder" 2>"$folder/err" | tee "$folder/out" || { cat "$folder/err" >&2; exit 1; }
diff "$folder/out" - <<'EXPECTED'
printed: [1] list: False
json.dumps: Object of type RepeatedScalarContainer is not JSON serializable
as a list: [1]
EXPECTED
