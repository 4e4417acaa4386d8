#!/usr/bin/env bash
# pymilvus 3.0.2 with milvus-lite 3.2.2 and with the Milvus server 2.3.5 of the PyPI package `milvus`.
#
# Guess: a vector without a direction (all zeros) is refused under the metric COSINE, as the server refuses NaN; or it is
#   found with similarity 0.
# Seen: the server stores and counts it, and no search shows it, though fewer hits than `limit` are left. Milvus Lite
#   shows it with 0. Some embedding models and gateways answer an empty text with zeros.
# Output:
#   lite 3.2.2 count 3, found [(0, 1.0), (1, 0.707), (2, 0.0)]
#   server 2.3.5 count 3, found [(0, 1.0), (1, 0.707)]
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
    vectors = [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]
    client.insert("docs", [{"id": at, "meta": {}, "vector": vector} for at, vector in enumerate(vectors)])
    count = client.query("docs", filter="", output_fields=["count(*)"])[0]["count(*)"]
    hits = client.search("docs", data=[[1.0, 0.0]], limit=10)[0]
    print(f"{name} count {count}, found {[(hit['id'], round(hit['distance'], 3)) for hit in hits]}")
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
lite 3.2.2 count 3, found [(0, 1.0), (1, 0.707), (2, 0.0)]
server 2.3.5 count 3, found [(0, 1.0), (1, 0.707)]
EXPECTED
