#!/usr/bin/env bash
# rank-bm25 0.2.2.
#
# Guess: a document that holds the query's only word scores more than one that does not, however small the corpus
#   is.
# Seen: a word that stands in exactly half of the documents has idf log(1) = 0, so both score 0 and the ranking is
#   chance. Tests on two or four documents, and small corpora, cannot tell a hit from a miss; `BM25Plus` can.
# Output:
#   BM25Okapi: with the word 0.00, without it 0.00
#   BM25Plus: with the word 2.20, without it 1.10
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check rank-bm25==0.2.2
cat >"$folder/probe.py" <<'PY'
from rank_bm25 import BM25Okapi, BM25Plus

corpus = [["벡터", "저장소"], ["날씨", "예보"]]
for kind in (BM25Okapi, BM25Plus):
    scores = kind(corpus).get_scores(["벡터"])
    print(f"{kind.__name__}: with the word {scores[0]:.2f}, without it {scores[1]:.2f}")
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" 2>"$folder/err" | tee "$folder/out" || { cat "$folder/err" >&2; exit 1; }
diff "$folder/out" - <<'EXPECTED'
BM25Okapi: with the word 0.00, without it 0.00
BM25Plus: with the word 2.20, without it 1.10
EXPECTED
