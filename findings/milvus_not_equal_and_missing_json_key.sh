#!/usr/bin/env bash
# pymilvus 3.0.2 with milvus-lite 3.2.2 and with the Milvus server 2.3.5 of the PyPI package `milvus`.
#
# Guess: the filter `meta["lang"] != "ko"` means the same on both engines, whichever rule they have for documents that do
#   not have the key.
# Seen: the server takes a document without the key for one whose value differs; Milvus Lite leaves it out, as SQL does with
#   NULL, and `not (... == ...)` as well. A filter that excludes drafts shows all documents in production and hides most of
#   them on the developer's machine, or the other way round.
# Output:
#   lite 3.2.2 meta["lang"] == "ko": [0]
#   lite 3.2.2 meta["lang"] != "ko": [1]
#   lite 3.2.2 not (meta["lang"] == "ko"): [1]
#   server 2.3.5 meta["lang"] == "ko": [0]
#   server 2.3.5 meta["lang"] != "ko": [1, 2]
#   server 2.3.5 not (meta["lang"] == "ko"): [1, 2]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pymilvus==3.0.2 milvus-lite==3.2.2 milvus==2.3.5
cat >"$folder/probe.py" <<'PY'
import sys

from milvus import default_server
from pymilvus import DataType, MilvusClient


def collection(client: MilvusClient) -> None:
    index = client.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="COSINE")
    schema = client.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("meta", DataType.JSON)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    client.create_collection("docs", schema=schema, index_params=index, consistency_level="Strong")


def probe(name: str, client: MilvusClient) -> None:
    collection(client)
    rows = [{"lang": "ko"}, {"lang": "en"}, {"draft": False}]
    client.insert("docs", [{"id": at, "meta": meta, "vector": [1.0, at]} for at, meta in enumerate(rows)])
    for condition in ('meta["lang"] == "ko"', 'meta["lang"] != "ko"', 'not (meta["lang"] == "ko")'):
        found = client.query("docs", filter=condition, output_fields=["id"])
        print(f"{name} {condition}: {sorted(row['id'] for row in found)}")
    client.close()


probe("lite 3.2.2", MilvusClient(sys.argv[1] + "/lite.db"))
default_server.set_base_dir(sys.argv[1] + "/server")
default_server.start()
try:
    probe("server 2.3.5", MilvusClient(f"http://127.0.0.1:{default_server.listen_port}"))
finally:
    default_server.stop()
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" "$folder" 2>/dev/null | tee "$folder/out"
diff "$folder/out" - <<'EXPECTED'
lite 3.2.2 meta["lang"] == "ko": [0]
lite 3.2.2 meta["lang"] != "ko": [1]
lite 3.2.2 not (meta["lang"] == "ko"): [1]
server 2.3.5 meta["lang"] == "ko": [0]
server 2.3.5 meta["lang"] != "ko": [1, 2]
server 2.3.5 not (meta["lang"] == "ko"): [1, 2]
EXPECTED
