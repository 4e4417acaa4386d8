#!/usr/bin/env bash
# kiwipiepy 0.24.1, kiwipiepy_model 0.24.0.
#
# Guess: a morphological analyser of Korean gives the same morphemes for a text in NFC and in NFD, since both are
#   the same text.
# Seen: for NFD, as macOS writes file names, it returns whole words with particles and endings: nothing is analysed
#   and nothing is said. Normalise before.
# Output:
#   NFC: 서울 특별시 에서 회의 가 열리 었 다
#   NFD: 서울특별시에서 회의가 열렸다
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check kiwipiepy==0.24.1 kiwipiepy_model==0.24.0
cat >"$folder/probe.py" <<'PY'
import unicodedata

from kiwipiepy import Kiwi

kiwi = Kiwi()
text = "서울특별시에서 회의가 열렸다"
for form in ("NFC", "NFD"):
    found = [unicodedata.normalize("NFC", token.form) for token in kiwi.tokenize(unicodedata.normalize(form, text))]
    print(f"{form}: {' '.join(found)}")
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" 2>"$folder/err" | tee "$folder/out" || { cat "$folder/err" >&2; exit 1; }
diff "$folder/out" - <<'EXPECTED'
NFC: 서울 특별시 에서 회의 가 열리 었 다
NFD: 서울특별시에서 회의가 열렸다
EXPECTED
