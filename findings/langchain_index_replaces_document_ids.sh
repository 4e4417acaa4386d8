#!/usr/bin/env bash
# langchain-core 1.8.3: langchain_core.indexing.index.
#
# Guess: a Document that carries an id of its own is stored under it. `add_documents` of the same vector store does so, and
#   the record manager only remembers which ids were written.
# Seen: `index` stores every document under a hash of its text and metadata and drops the id. Whoever later deletes or
#   fetches by the id that the document had finds nothing, without an error.
# Output:
#   add_documents: ids ['law-3'], found by law-3: 1
#   index: 1 id of 64 characters, found by law-3: 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check langchain-core==1.8.3 numpy==2.4.6
cat >"$folder/probe.py" <<'PY'
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.vectorstores import InMemoryVectorStore

document = Document(id="law-3", page_content="제3조", metadata={"source": "law"})

store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
store.add_documents([document])
print(f"add_documents: ids {list(store.store)}, found by law-3: {len(store.get_by_ids(['law-3']))}")

store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
records = InMemoryRecordManager("probe")
records.create_schema()
index([document], records, store, key_encoder="sha256")
(stored,) = store.store
print(f"index: 1 id of {len(stored)} characters, found by law-3: {len(store.get_by_ids(['law-3']))}")
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" | tee "$folder/out"
diff "$folder/out" - <<'EXPECTED'
add_documents: ids ['law-3'], found by law-3: 1
index: 1 id of 64 characters, found by law-3: 0
EXPECTED
