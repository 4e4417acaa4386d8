#!/usr/bin/env bash
# pymilvus 3.0.2 with milvus-lite 3.2.2 and with the Milvus server 2.3.5 of the PyPI package `milvus`.
#
# Guess: rename_collection leaves a loaded collection loaded, as on the server.
# Seen: on Lite it is released, without an error: the next search is refused until it is loaded again.
# Output:
#   lite, before: Loaded
#   lite, after: NotLoad
#   lite, rows found: MilvusException 101
#   server, before: Loaded
#   server, after: Loaded
#   server, rows found: 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pymilvus==3.0.2 milvus-lite==3.2.2 milvus==2.3.5
cat >"$folder/probe.py" <<'PY'
import logging
import sys
from collections.abc import Callable

from milvus import default_server
from pymilvus import DataType, MilvusClient, MilvusException

logging.disable(logging.CRITICAL)


def outcome(call: Callable[[], object]) -> str:
    try:
        return str(call())
    except MilvusException as error:
        return f"MilvusException {error.code}"


def probe(name: str, client: MilvusClient) -> None:
    index = client.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="COSINE")
    schema = client.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    client.create_collection("draft", schema=schema, index_params=index, consistency_level="Strong")
    client.insert("draft", [{"id": 1, "vector": [1.0, 0.0]}])
    print(f"{name}, before: {client.get_load_state('draft')['state'].name}")
    client.rename_collection("draft", "final")
    print(f"{name}, after: {client.get_load_state('final')['state'].name}")
    print(f"{name}, rows found: {outcome(lambda: len(client.search('final', data=[[1.0, 0.0]], limit=1)[0]))}")


lite = MilvusClient(sys.argv[1] + "/lite.db")
probe("lite", lite)
lite.close()
default_server.set_base_dir(sys.argv[1] + "/server")
default_server.start()
try:
    probe("server", MilvusClient(f"http://127.0.0.1:{default_server.listen_port}"))
finally:
    default_server.stop()
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" "$folder" 2>"$folder/err" | tee "$folder/out" || { cat "$folder/err" >&2; exit 1; }
diff "$folder/out" - <<'EXPECTED'
lite, before: Loaded
lite, after: NotLoad
lite, rows found: MilvusException 101
server, before: Loaded
server, after: Loaded
server, rows found: 1
EXPECTED
