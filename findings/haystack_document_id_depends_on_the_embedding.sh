#!/usr/bin/env bash
# haystack-ai 3.4.1: Document and InMemoryDocumentStore.
#
# Guess: the id that Haystack computes stands for the content (text and metadata), so that a document that is built again
#   with a vector, or with one of another model, replaces the one that is stored.
# Seen: the vector is part of the hash. The same text with a vector has another id, with a vector of another model a third.
#   Writing all three with OVERWRITE leaves three documents. The order of metadata keys does not matter.
# Output:
#   same id with and without a vector: False
#   same id with metadata keys in another order: True
#   documents after three writes with OVERWRITE: 3
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check haystack-ai==3.4.1
cat >"$folder/probe.py" <<'PY'
from haystack import Document
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.document_stores.types import DuplicatePolicy

plain = Document(content="제3조", meta={"law": "civil", "year": 2026})
turned = Document(content="제3조", meta={"year": 2026, "law": "civil"})
first = Document(content="제3조", meta={"law": "civil", "year": 2026}, embedding=[1.0, 0.0])
second = Document(content="제3조", meta={"law": "civil", "year": 2026}, embedding=[0.0, 1.0])
print(f"same id with and without a vector: {plain.id == first.id}")
print(f"same id with metadata keys in another order: {plain.id == turned.id}")
store = InMemoryDocumentStore()
for document in (plain, first, second):
    store.write_documents([document], policy=DuplicatePolicy.OVERWRITE)
print(f"documents after three writes with OVERWRITE: {store.count_documents()}")
PY
HAYSTACK_TELEMETRY_ENABLED=False "$folder/venv/bin/python" -W ignore "$folder/probe.py" | tee "$folder/out"
diff "$folder/out" - <<'EXPECTED'
same id with and without a vector: False
same id with metadata keys in another order: True
documents after three writes with OVERWRITE: 3
EXPECTED
