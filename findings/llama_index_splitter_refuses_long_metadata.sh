#!/usr/bin/env bash
# llama-index-core 0.14.25.
#
# Guess: SentenceSplitter(chunk_size=128) makes chunks of 128 tokens of text; metadata is carried along and changes
#   nothing.
# Seen: metadata is put before each text that is embedded, so its tokens are taken off the chunk size: long metadata
#   makes more and smaller chunks, and metadata above chunk_size is a ValueError for the whole document.
# Output:
#   0 words of metadata: 5 chunks
#   70 words of metadata: 10 chunks
#   300 words of metadata: Metadata length (303) is longer than chunk size (128)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check llama-index-core==0.14.25
cat >"$folder/probe.py" <<'PY'
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import Document

text = "Seoul is the capital of Korea. " * 60
for words in (0, 70, 300):
    document = Document(text=text, metadata={"note": "word " * words} if words else {})
    try:
        nodes = SentenceSplitter(chunk_size=128, chunk_overlap=0).get_nodes_from_documents([document])
        print(f"{words} words of metadata: {len(nodes)} chunks")
    except ValueError as exc:
        print(f"{words} words of metadata: {str(exc).split('. ')[0]}")
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" 2>"$folder/err" | tee "$folder/out" || { cat "$folder/err" >&2; exit 1; }
diff "$folder/out" - <<'EXPECTED'
0 words of metadata: 5 chunks
70 words of metadata: 10 chunks
300 words of metadata: Metadata length (303) is longer than chunk size (128)
EXPECTED
