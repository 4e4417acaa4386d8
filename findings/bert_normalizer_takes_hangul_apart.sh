#!/usr/bin/env bash
# tokenizers 0.23.3.
#
# Guess: the BertNormalizer of an uncased model removes accents and lowers letters; Hangul, which has neither, stays
#   as it is.
# Seen: to strip accents it decomposes all text and never composes it again: each syllable becomes two or three
#   conjoining letters. A vocabulary of whole syllables then matches nothing, and a text counts up to three times
#   its characters. `lowercase=False` does not do it.
# Output:
#   lowercase=True: 8 characters, 1112 1161 11AB 1100 116E 11A8 110B 1165
#   lowercase=False: 3 characters, D55C AD6D C5B4
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tokenizers==0.23.3
cat >"$folder/probe.py" <<'PY'
from tokenizers.normalizers import BertNormalizer

for lowercase in (True, False):
    found = BertNormalizer(lowercase=lowercase).normalize_str("한국어")
    print(f"lowercase={lowercase}: {len(found)} characters, {' '.join(f'{ord(c):04X}' for c in found)}")
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" 2>"$folder/err" | tee "$folder/out" || { cat "$folder/err" >&2; exit 1; }
diff "$folder/out" - <<'EXPECTED'
lowercase=True: 8 characters, 1112 1161 11AB 1100 116E 11A8 110B 1165
lowercase=False: 3 characters, D55C AD6D C5B4
EXPECTED
