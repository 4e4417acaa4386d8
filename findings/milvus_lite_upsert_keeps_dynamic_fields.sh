#!/usr/bin/env bash
# pymilvus 3.0.2 with milvus-lite 3.2.2 and with the Milvus server 2.3.5 of the PyPI package `milvus`.
#
# Guess: an upsert replaces the row on both engines: dynamic fields that the new row lacks are gone.
# Seen: Lite keeps the old row's dynamic fields that the new row does not name, and filters find them; the server
#   drops them.
# Output:
#   lite 3.2.2: rows with the dropped field: 1
#   server 2.3.5: rows with the dropped field: 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pymilvus==3.0.2 milvus-lite==3.2.2 milvus==2.3.5
cat >"$folder/probe.py" <<'PY'
import logging
import sys

from milvus import default_server
from pymilvus import DataType, MilvusClient, MilvusException

logging.disable(logging.CRITICAL)


def collection(client: MilvusClient) -> None:
    index = client.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="COSINE")
    schema = client.create_schema(enable_dynamic_field=True)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("text", DataType.VARCHAR, max_length=10)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    client.create_collection("docs", schema=schema, index_params=index, consistency_level="Strong")


def probe(name: str, client: MilvusClient) -> None:
    collection(client)
    row = {"id": 1, "text": "a", "vector": [1.0, 0.0]}
    client.upsert("docs", [row | {"draft": True}])
    client.upsert("docs", [row])
    found = client.query("docs", filter="draft == true", output_fields=["id"])
    print(f"{name}: rows with the dropped field: {len(found)}")


lite = MilvusClient(sys.argv[1] + "/lite.db")
probe("lite 3.2.2", lite)
lite.close()
default_server.set_base_dir(sys.argv[1] + "/server")
default_server.start()
try:
    probe("server 2.3.5", MilvusClient(f"http://127.0.0.1:{default_server.listen_port}"))
finally:
    default_server.stop()
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" "$folder" 2>"$folder/err" | tee "$folder/out" || { cat "$folder/err" >&2; exit 1; }
diff "$folder/out" - <<'EXPECTED'
lite 3.2.2: rows with the dropped field: 1
server 2.3.5: rows with the dropped field: 0
EXPECTED
