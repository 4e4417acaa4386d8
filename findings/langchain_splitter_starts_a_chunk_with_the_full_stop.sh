#!/usr/bin/env bash
# langchain-text-splitters 1.1.3.
#
# Guess: RecursiveCharacterTextSplitter, told to split at ". " and to keep separators (the default), leaves the full
#   stop at the end of its sentence.
# Seen: the default keeps it at the start of the next chunk: every chunk but the first begins with ". ", and no
#   sentence at a chunk's end has its full stop. `keep_separator="end"` does what was expected.
# Output:
#   keep_separator=True: ['하나가 있다', '. 둘이 있다', '. 셋이 있다.']
#   keep_separator=end: ['하나가 있다.', '둘이 있다.', '셋이 있다.']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check langchain-text-splitters==1.1.3
cat >"$folder/probe.py" <<'PY'
from langchain_text_splitters import RecursiveCharacterTextSplitter

text = "하나가 있다. 둘이 있다. 셋이 있다."
for keep in (True, "end"):
    splitter = RecursiveCharacterTextSplitter(separators=[". ", " "], chunk_size=10, chunk_overlap=0, keep_separator=keep)
    print(f"keep_separator={keep}: {splitter.split_text(text)}")
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" 2>"$folder/err" | tee "$folder/out" || { cat "$folder/err" >&2; exit 1; }
diff "$folder/out" - <<'EXPECTED'
keep_separator=True: ['하나가 있다', '. 둘이 있다', '. 셋이 있다.']
keep_separator=end: ['하나가 있다.', '둘이 있다.', '셋이 있다.']
EXPECTED
