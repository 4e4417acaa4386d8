#!/usr/bin/env bash
# langchain-community 0.4.2, rank-bm25 0.2.2.
#
# Guess: BM25Retriever finds "Milvus stores vectors" for the question "milvus", and returns nothing where no word
#   matches.
# Seen: its default only splits at white space: capitals and punctuation are part of a word. A question that matches
#   nothing still gets k documents, the last ones of the list, and no score tells.
# Output:
#   Milvus: Milvus stores vectors.
#   milvus: Nginx serves pages.
#   vectors: Nginx serves pages.
#   vectors.: Milvus stores vectors.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check langchain-community==0.4.2 rank-bm25==0.2.2
cat >"$folder/probe.py" <<'PY'
from langchain_community.retrievers import BM25Retriever

texts = ["Milvus stores vectors.", "PostgreSQL stores rows.", "Nginx serves pages."]
retriever = BM25Retriever.from_texts(texts, k=1)
for question in ("Milvus", "milvus", "vectors", "vectors."):
    print(f"{question}: {retriever.invoke(question)[0].page_content}")
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" 2>"$folder/err" | tee "$folder/out" || { cat "$folder/err" >&2; exit 1; }
diff "$folder/out" - <<'EXPECTED'
Milvus: Milvus stores vectors.
milvus: Nginx serves pages.
vectors: Nginx serves pages.
vectors.: Milvus stores vectors.
EXPECTED
