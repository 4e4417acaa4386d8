#!/usr/bin/env bash
# chromadb 1.5.9.
#
# Guess: an upsert replaces a record: afterwards it has the metadata of the upsert and no other.
# Seen: metadata is merged, key by key, so a key that the new version of a document lacks stays and filters still
#   find it; only an explicit None removes it.
# Output:
#   after the second upsert: [('draft', True), ('year', 2026)]
#   found as draft: ['1']
#   after None: [('year', 2026)]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check chromadb==1.5.9
cat >"$folder/probe.py" <<'PY'
import chromadb

collection = chromadb.EphemeralClient().create_collection("documents", embedding_function=None)
collection.upsert(ids=["1"], embeddings=[[1.0, 0.0]], metadatas=[{"draft": True, "year": 2025}])
collection.upsert(ids=["1"], embeddings=[[1.0, 0.0]], metadatas=[{"year": 2026}])
print("after the second upsert:", sorted(collection.get()["metadatas"][0].items()))
print("found as draft:", collection.get(where={"draft": True})["ids"])
collection.upsert(ids=["1"], embeddings=[[1.0, 0.0]], metadatas=[{"year": 2026, "draft": None}])
print("after None:", sorted(collection.get()["metadatas"][0].items()))
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" 2>"$folder/err" | tee "$folder/out" || { cat "$folder/err" >&2; exit 1; }
diff "$folder/out" - <<'EXPECTED'
after the second upsert: [('draft', True), ('year', 2026)]
found as draft: ['1']
after None: [('year', 2026)]
EXPECTED
