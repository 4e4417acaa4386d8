#!/usr/bin/env bash
# pymilvus 3.0.2.
#
# Guess: importing a database client changes nothing outside of its own modules; a `.env` file is read by the program that asks
#   for it.
# Seen: `import pymilvus` loads the nearest `.env` above its own folder into `os.environ`. With the virtual environment inside
#   the project that is the project's file, wherever the process was started, so every value in it (another
#   service's key too) is in the environment of the process and of its children. A variable that is set already is kept.
# Output:
#   before: None kept
#   after: from-the-env-file kept
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/project"
python3 -m venv "$folder/project/.venv"
"$folder/project/.venv/bin/pip" install --quiet --disable-pip-version-check pymilvus==3.0.2
printf 'SOME_OTHER_SERVICE=from-the-env-file\nSET_BEFORE=changed\n' >"$folder/project/.env"
cat >"$folder/probe.py" <<'PY'
import os

names = ("SOME_OTHER_SERVICE", "SET_BEFORE")
print("before:", *map(os.environ.get, names))
import pymilvus

print("after:", *map(os.environ.get, names))
PY
cd / # The working directory has nothing to do with it.
env -u SOME_OTHER_SERVICE SET_BEFORE=kept "$folder/project/.venv/bin/python" "$folder/probe.py" | tee "$folder/out"
diff "$folder/out" - <<'EXPECTED'
before: None kept
after: from-the-env-file kept
EXPECTED
