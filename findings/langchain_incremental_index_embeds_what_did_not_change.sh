#!/usr/bin/env bash
# langchain-core 1.8.3: langchain_core.indexing.index with cleanup="incremental".
#
# Guess: chunks that were indexed before and did not change are skipped. That is what the record manager is for.
# Seen: after each batch (100 by default) it deletes what the source has in the store and this run has not met yet. A source
#   of more than one batch loses all its later chunks after the first batch, although nothing changed; they are then
#   embedded and written again, and in between a search does not find them. 250 unchanged chunks of one file: 150 are
#   embedded again in each run. cleanup="full", and a batch that holds the whole source, skip all.
# Output:
#   incremental: skipped 100, added 150, deleted 150
#   incremental, batch_size=1000: skipped 250, added 0, deleted 0
#   full: skipped 250, added 0, deleted 0
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

chunks = [Document(page_content=f"chunk {number}", metadata={"source": "one.pdf"}) for number in range(250)]


def second(label: str, **options: object) -> None:
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    records = InMemoryRecordManager("probe")
    records.create_schema()
    for _ in range(2):
        done = index(chunks, records, store, source_id_key="source", key_encoder="sha256", **options)
    print(f"{label}: skipped {done['num_skipped']}, added {done['num_added']}, deleted {done['num_deleted']}")


second("incremental", cleanup="incremental")
second("incremental, batch_size=1000", cleanup="incremental", batch_size=1000)
second("full", cleanup="full")
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" | tee "$folder/out"
diff "$folder/out" - <<'EXPECTED'
incremental: skipped 100, added 150, deleted 150
incremental, batch_size=1000: skipped 250, added 0, deleted 0
full: skipped 250, added 0, deleted 0
EXPECTED
