#!/usr/bin/env bash
# langchain-milvus 0.4.0, pymilvus 3.0.2, milvus-lite 3.2.2.
#
# Guess: metadata that the first documents did not have is stored (a dynamic field), or adding it is an error.
# Seen: the keys of the first document become the collection's columns. A key that comes later is dropped without an error
#   or a warning; a key that is missing later is an error. So a field added to a pipeline next month is never stored.
# Output:
#   first: {'lang': 'ko'}
#   second, with a new key: {'lang': 'ko'}
#   third, without the first key: DataNotMatchException
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    langchain-milvus==0.4.0 pymilvus==3.0.2 milvus-lite==3.2.2
cat >"$folder/probe.py" <<'PY'
import logging
import sys

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_milvus import Milvus

logging.disable(logging.CRITICAL)
store = Milvus(
    DeterministicFakeEmbedding(size=8),
    connection_args={"uri": sys.argv[1]},
    auto_id=True,
    index_params={"index_type": "FLAT", "metric_type": "COSINE"},
)


def stored(text: str) -> dict[str, object]:
    found = {one.page_content: one.metadata for one in store.similarity_search(text, k=10)}
    return {key: value for key, value in found[text].items() if key != "pk"}


store.add_documents([Document("one", metadata={"lang": "ko"})])
print("first:", stored("one"))
store.add_documents([Document("two", metadata={"lang": "ko", "source": "gazette"})])
print("second, with a new key:", stored("two"))
try:
    store.add_documents([Document("three", metadata={"source": "gazette"})])
    print("third, without the first key:", stored("three"))
except Exception as exc:
    print("third, without the first key:", type(exc).__name__)
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" "$folder/store.db" 2>/dev/null | tee "$folder/out"
diff "$folder/out" - <<'EXPECTED'
first: {'lang': 'ko'}
second, with a new key: {'lang': 'ko'}
third, without the first key: DataNotMatchException
EXPECTED
