#!/usr/bin/env bash
# milvus-lite 3.2.2 through pymilvus 3.0.2.
#
# Guess: an index made for COSINE refuses a search that asks for L2, since the metric belongs to the index.
# Seen: Lite takes the metric of each search. The same collection answers by L2, by IP or by COSINE, with distances of that
#   metric and in its order, and does not say that this is not the one of the index. A wrong metric type in a client's
#   settings is seen only in the scores.
# Output:
#   COSINE: [(1, 1.0), (2, 0.707)]
#   IP: [(2, 20.0), (1, 1.0)]
#   L2: [(1, 0.0), (2, 761.0)]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pymilvus==3.0.2 milvus-lite==3.2.2
cat >"$folder/probe.py" <<'PY'
import sys

from pymilvus import MilvusClient

client = MilvusClient(sys.argv[1])
client.create_collection("c", dimension=2, metric_type="COSINE")
client.insert("c", [{"id": 1, "vector": [1, 0]}, {"id": 2, "vector": [20, 20]}])
for metric in ("COSINE", "IP", "L2"):
    (hits,) = client.search("c", [[1, 0]], limit=2, search_params={"metric_type": metric})
    print(f"{metric}: {[(hit['id'], round(hit['distance'], 3)) for hit in hits]}")
client.close()
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" "$folder/lite.db" 2>/dev/null | tee "$folder/out"
diff "$folder/out" - <<'EXPECTED'
COSINE: [(1, 1.0), (2, 0.707)]
IP: [(2, 20.0), (1, 1.0)]
L2: [(1, 0.0), (2, 761.0)]
EXPECTED
