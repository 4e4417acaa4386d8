#!/usr/bin/env bash
# tokenizers 0.23.3 (its NFKC, as in many tokenizer.json files).
#
# Guess: NFKC maps a letter of Hangul Compatibility Jamo, as people type in chats (ㅋㅋ, ㄱㅏ), to something of the same
#   look and number.
# Seen: each becomes a conjoining letter, and then a consonant and a vowel compose: two letters that the user typed
#   apart are one syllable, and ㅋㅋㅋㅏ ends with another syllable than it shows. A lexical index that normalises finds
#   가 for ㄱㅏ, and offsets into the text move.
# Output:
#   2 characters 3131 314F -> 1: AC00
#   3 characters 314B 314B 314B -> 3: 110F 110F 110F
#   4 characters 314B 314B 314B 314F -> 3: 110F 110F CE74
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tokenizers==0.23.3
cat >"$folder/probe.py" <<'PY'
from tokenizers.normalizers import NFKC

for text in ("ㄱㅏ", "ㅋㅋㅋ", "ㅋㅋㅋㅏ"):
    found = NFKC().normalize_str(text)
    print(f"{len(text)} characters {' '.join(f'{ord(c):04X}' for c in text)} -> {len(found)}: {' '.join(f'{ord(c):04X}' for c in found)}")
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" 2>"$folder/err" | tee "$folder/out" || { cat "$folder/err" >&2; exit 1; }
diff "$folder/out" - <<'EXPECTED'
2 characters 3131 314F -> 1: AC00
3 characters 314B 314B 314B -> 3: 110F 110F 110F
4 characters 314B 314B 314B 314F -> 3: 110F 110F CE74
EXPECTED
