#!/usr/bin/env bash
# llama-index-core 0.14.25: VectorStoreIndex on its default store, MockEmbedding.
#
# Guess: inserting a Document whose id_ the index holds replaces it, or is refused.
# Seen: both versions stay and both are retrieved, under one ref_doc_id. A later refresh_ref_docs with a third text removes
#   both, while refresh_ref_docs with the text that was inserted last does nothing at all: it compares with the newest
#   hash and leaves the older version to be found.
# Output:
#   after insert of the same id: ['new', 'old']
#   refresh with the text inserted last: changed [False], found ['new', 'old']
#   refresh with a third text: changed [True], found ['third']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check llama-index-core==0.14.25
cat >"$folder/probe.py" <<'PY'
from llama_index.core import Document, MockEmbedding, Settings, VectorStoreIndex

Settings.embed_model = MockEmbedding(embed_dim=4)


def found() -> list[str]:
    return sorted(hit.node.get_content() for hit in index.as_retriever(similarity_top_k=10).retrieve("text"))


index = VectorStoreIndex.from_documents([Document(text="old", id_="law-3")])
index.insert(Document(text="new", id_="law-3"))
print(f"after insert of the same id: {found()}")
print(f"refresh with the text inserted last: changed {index.refresh_ref_docs([Document(text='new', id_='law-3')])}, found {found()}")
print(f"refresh with a third text: changed {index.refresh_ref_docs([Document(text='third', id_='law-3')])}, found {found()}")
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" 2>/dev/null | tee "$folder/out"
diff "$folder/out" - <<'EXPECTED'
after insert of the same id: ['new', 'old']
refresh with the text inserted last: changed [False], found ['new', 'old']
refresh with a third text: changed [True], found ['third']
EXPECTED
