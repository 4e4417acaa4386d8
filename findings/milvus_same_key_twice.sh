#!/usr/bin/env bash
# pymilvus 3.0.2 with milvus-lite 3.2.2 and with the Milvus server 2.3.5 of the PyPI package `milvus`.
#
# Guess: both engines treat a primary key alike: an upsert that names a key twice keeps the last row, an insert of a key that
#   exists is refused or replaces the row.
# Seen: an upsert with the same key twice keeps the last row on Lite and the first on the server, which counts two for it.
#   An insert of a key that exists replaces the row on Lite; the server counts two from then on. A test suite on Lite sees neither.
# Output:
#   lite 3.2.2 upsert of one key twice: second, count 1
#   lite 3.2.2 insert of a key that exists: count 1
#   server 2.3.5 upsert of one key twice: first, count 2
#   server 2.3.5 insert of a key that exists: count 2
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pymilvus==3.0.2 milvus-lite==3.2.2 milvus==2.3.5
cat >"$folder/probe.py" <<'PY'
import sys

from milvus import default_server
from pymilvus import DataType, MilvusClient


def probe(name: str, client: MilvusClient) -> None:
    index = client.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="COSINE")

    def collection(of: str) -> None:
        schema = client.create_schema()
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("text", DataType.VARCHAR, max_length=100)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
        client.create_collection(of, schema=schema, index_params=index, consistency_level="Strong")

    def row(text: str) -> dict[str, object]:
        return {"id": 1, "text": text, "vector": [1.0, 0.0]}

    def seen(of: str) -> str:
        return f"count {client.query(of, filter='', output_fields=['count(*)'])[0]['count(*)']}"

    def text(of: str) -> str:
        return client.query(of, filter="id == 1", output_fields=["text"])[0]["text"]

    collection("upserted")
    client.upsert("upserted", [row("first"), row("second")])
    print(name, "upsert of one key twice:", text("upserted") + ",", seen("upserted"))
    collection("inserted")
    client.insert("inserted", [row("old")])
    client.insert("inserted", [row("new")])
    print(name, "insert of a key that exists:", seen("inserted"))
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
lite 3.2.2 upsert of one key twice: second, count 1
lite 3.2.2 insert of a key that exists: count 1
server 2.3.5 upsert of one key twice: first, count 2
server 2.3.5 insert of a key that exists: count 2
EXPECTED
