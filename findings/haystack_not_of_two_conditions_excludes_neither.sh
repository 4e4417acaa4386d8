#!/usr/bin/env bash
# haystack-ai 3.4.1 (InMemoryDocumentStore).
#
# Guess: NOT over several conditions excludes what fits any of them, as must_not of Qdrant and of OpenSearch does.
# Seen: it excludes only what fits all of them. With two values of one key no document can fit both, so nothing is
#   excluded. "not in" with the list excludes both.
# Output:
#   NOT of one: ['gone', 'live']
#   NOT of two: ['draft', 'gone', 'live']
#   not in: ['live']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check haystack-ai==3.4.1
cat >"$folder/probe.py" <<'PY'
from haystack import Document
from haystack.document_stores.in_memory import InMemoryDocumentStore

store = InMemoryDocumentStore()
store.write_documents([Document(id=state, content=state, meta={"state": state}) for state in ("draft", "gone", "live")])


def ids(filters):
    return sorted(document.id for document in store.filter_documents(filters))


def is_state(value):
    return {"field": "meta.state", "operator": "==", "value": value}


print("NOT of one:", ids({"operator": "NOT", "conditions": [is_state("draft")]}))
print("NOT of two:", ids({"operator": "NOT", "conditions": [is_state("draft"), is_state("gone")]}))
print("not in:", ids({"field": "meta.state", "operator": "not in", "value": ["draft", "gone"]}))
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" 2>"$folder/errors" | tee "$folder/out" || { cat "$folder/errors"; exit 1; }
diff "$folder/out" - <<'EXPECTED'
NOT of one: ['gone', 'live']
NOT of two: ['draft', 'gone', 'live']
not in: ['live']
EXPECTED
