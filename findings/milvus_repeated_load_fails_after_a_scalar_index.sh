#!/usr/bin/env bash
# pymilvus 3.0.2 with milvus-lite 3.2.2 and with the Milvus server 2.3.5 of the PyPI package `milvus`.
#
# Guess: load_collection on a collection that is loaded does nothing, so that it can be sent at every start.
# Seen: on the server it does nothing until a scalar index was added, which is allowed while the collection is loaded.
#   From then on it is an error, 1100 "can't change the index for loaded collection", and searches go on. Lite has no
#   such error.
# Output:
#   lite, loaded again: None
#   lite, scalar index: None
#   lite, state: Loaded
#   lite, loaded again: None
#   lite, rows found: 0
#   server, loaded again: None
#   server, scalar index: None
#   server, state: Loaded
#   server, loaded again: MilvusException 1100
#   server, rows found: 0
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
    schema.add_field("year", DataType.INT64)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    client.create_collection("docs", schema=schema, index_params=index)
    print(f"{name}, loaded again: {outcome(lambda: client.load_collection('docs'))}")
    index = client.prepare_index_params()
    index.add_index("year", index_type="INVERTED" if name == "lite" else "STL_SORT")
    print(f"{name}, scalar index: {outcome(lambda: client.create_index('docs', index))}")
    print(f"{name}, state: {client.get_load_state('docs')['state'].name}")
    print(f"{name}, loaded again: {outcome(lambda: client.load_collection('docs'))}")
    print(f"{name}, rows found: {outcome(lambda: len(client.search('docs', data=[[1.0, 0.0]], limit=1)[0]))}")


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
lite, loaded again: None
lite, scalar index: None
lite, state: Loaded
lite, loaded again: None
lite, rows found: 0
server, loaded again: None
server, scalar index: None
server, state: Loaded
server, loaded again: MilvusException 1100
server, rows found: 0
EXPECTED
