#!/usr/bin/env bash
# chromadb 1.5.9.
#
# Guess: add() with an id that exists is an error, or replaces the record; delete() of an unknown id says that it
#   deleted nothing.
# Seen: add() keeps the old record and raises nothing, so an ingestion that runs again after a correction changes
#   nothing in silence. delete() of an id that is not there reports 1 deleted.
# Output:
#   after both: ['old']
#   delete of an unknown id: {'deleted': 1}
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check chromadb==1.5.9
cat >"$folder/probe.py" <<'PY'
import chromadb

collection = chromadb.EphemeralClient().create_collection("documents", embedding_function=None)
collection.add(ids=["1"], embeddings=[[1.0, 0.0]], documents=["old"])
collection.add(ids=["1"], embeddings=[[0.0, 1.0]], documents=["corrected"])
print("after both:", collection.get()["documents"])
print("delete of an unknown id:", collection.delete(ids=["unknown"]))
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" 2>"$folder/err" | tee "$folder/out" || { cat "$folder/err" >&2; exit 1; }
diff "$folder/out" - <<'EXPECTED'
after both: ['old']
delete of an unknown id: {'deleted': 1}
EXPECTED
