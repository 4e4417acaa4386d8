#!/usr/bin/env bash
# haystack-ai 3.4.1 (InMemoryBM25Retriever).
#
# Guess: BM25 of Korean compares words between spaces, so that a question whose words stand in no document finds none,
#   as it is in English.
# Seen: by default each Hangul syllable is a token of its own, as if it were a Chinese character. A syllable of another
#   word or of an ending is a hit: a word that stands nowhere finds a document, and a document that holds the word can
#   come after one that holds its syllables apart.
# Output:
#   English: []
#   Korean: ['물이 끓는다']
#   order: ['과사 사과과', '이 사과 바구니는 아주 크다']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check haystack-ai==3.4.1
cat >"$folder/probe.py" <<'PY'
from haystack import Document
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore


def found(texts, question):
    store = InMemoryDocumentStore()
    store.write_documents([Document(content=text) for text in texts])
    return [document.content for document in InMemoryBM25Retriever(store).run(query=question)["documents"]]


print("English:", found(["water is boiling", "a cold day"], "oil"))
print("Korean:", found(["물이 끓는다", "날이 차다"], "없는말"))
print("order:", found(["이 사과 바구니는 아주 크다", "과사 사과과"], "사과"))
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" 2>"$folder/errors" | tee "$folder/out" || { cat "$folder/errors"; exit 1; }
diff "$folder/out" - <<'EXPECTED'
English: []
Korean: ['물이 끓는다']
order: ['과사 사과과', '이 사과 바구니는 아주 크다']
EXPECTED
