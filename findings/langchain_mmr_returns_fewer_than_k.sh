#!/usr/bin/env bash
# langchain-core 1.8.3.
#
# Guess: a retriever with search_type="mmr" and k=50 returns 50 of 100 documents; fetch_k only says among how many more
#   it may choose.
# Seen: fetch_k stays at its default of 20 and is the upper bound: 20 documents come back, without a word. The same
#   retriever by similarity returns 50.
# Output:
#   similarity: 50
#   mmr: 20
#   mmr with fetch_k=80: 50
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check langchain-core==1.8.3 numpy==2.4.6
cat >"$folder/probe.py" <<'PY'
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore

store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
store.add_texts([f"passage {number}" for number in range(100)])
for kind in ("similarity", "mmr"):
    print(f"{kind}:", len(store.as_retriever(search_type=kind, search_kwargs={"k": 50}).invoke("passage 7")))
more = {"k": 50, "fetch_k": 80}
print("mmr with fetch_k=80:", len(store.as_retriever(search_type="mmr", search_kwargs=more).invoke("passage 7")))
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" 2>"$folder/errors" | tee "$folder/out" || { cat "$folder/errors"; exit 1; }
diff "$folder/out" - <<'EXPECTED'
similarity: 50
mmr: 20
mmr with fetch_k=80: 50
EXPECTED
