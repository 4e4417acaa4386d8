#!/usr/bin/env bash
# bm25s 0.3.16.
#
# Guess: the default tokenizer of bm25s keeps each word, so a query of the word 물 (water) finds the document whose
#   text has it.
# Seen: words of one character are dropped, as in English they mean little. In Korean and Chinese many nouns are one
#   character: the query becomes empty, every score is 0, and still k documents come back, in no order that means
#   anything.
# Output:
#   물: 0 tokens, scores [0.0, 0.0]
#   얼음: 1 tokens, scores [0.28, 0.0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check bm25s==0.3.16
cat >"$folder/probe.py" <<'PY'
import bm25s

documents = ["불 과 연기", "물 과 얼음"]
index = bm25s.BM25()
index.index(bm25s.tokenize(documents, show_progress=False), show_progress=False)
for query in ("물", "얼음"):
    tokens = bm25s.tokenize(query, show_progress=False)
    found, scores = index.retrieve(tokens, k=2, show_progress=False)
    print(f"{query}: {len(tokens.ids[0])} tokens, scores {[round(float(s), 2) for s in scores[0]]}")
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" 2>"$folder/err" | tee "$folder/out" || { cat "$folder/err" >&2; exit 1; }
diff "$folder/out" - <<'EXPECTED'
물: 0 tokens, scores [0.0, 0.0]
얼음: 1 tokens, scores [0.28, 0.0]
EXPECTED
