#!/usr/bin/env bash
# pymilvus 3.0.2 with milvus-lite 3.2.2 and with the Milvus server 2.3.5 of the PyPI package `milvus`.
#
# Guess: a dynamic field with a Korean name is filtered like any other, `이름 == "값"`, or is refused when it is
#   stored.
# Seen: it is stored, and Lite filters by it; the server cannot parse the filter, since names there are ASCII.
#   `$meta["이름"]` works on both.
# Output:
#   lite 3.2.2: 이름 == "값": 1 row
#   lite 3.2.2: $meta["이름"] == "값": 1 row
#   server 2.3.5: 이름 == "값": cannot be parsed
#   server 2.3.5: $meta["이름"] == "값": 1 row
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
    client.insert("docs", [{"id": 1, "text": "a", "vector": [1.0, 0.0], "이름": "값"}])
    for condition in ('이름 == "값"', '$meta["이름"] == "값"'):
        try:
            done = f"{len(client.query('docs', filter=condition, output_fields=['id']))} row"
        except MilvusException:
            done = "cannot be parsed"
        print(f"{name}: {condition}: {done}")


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
lite 3.2.2: 이름 == "값": 1 row
lite 3.2.2: $meta["이름"] == "값": 1 row
server 2.3.5: 이름 == "값": cannot be parsed
server 2.3.5: $meta["이름"] == "값": 1 row
EXPECTED
