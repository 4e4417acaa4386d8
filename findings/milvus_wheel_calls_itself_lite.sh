#!/usr/bin/env bash
# pymilvus 3.0.2 with the Milvus server of the PyPI package `milvus` 2.3.5, and with milvus-lite 3.2.2.
#
# Guess: "lite" in a server's version names Milvus Lite, so that a program may tell the two engines apart by it.
# Seen: the package `milvus`, a whole standalone server with timestamps, a log and its own ports, has "-lite" in its
#   version as well. Milvus Lite's begins with "milvus_lite".
# Output:
#   package milvus 2.3.5: holds 'lite' True, begins with 'milvus_lite' False
#   package milvus-lite 3.2.2: holds 'lite' True, begins with 'milvus_lite' True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pymilvus==3.0.2 milvus-lite==3.2.2 milvus==2.3.5
cat >"$folder/probe.py" <<'PY'
import sys

from milvus import default_server
from pymilvus import MilvusClient


def probe(name: str, uri: str) -> None:
    version = MilvusClient(uri).get_server_version()
    print(f"{name}: holds 'lite' {'lite' in version}, begins with 'milvus_lite' {version.startswith('milvus_lite')}")


default_server.set_base_dir(sys.argv[1] + "/server")
default_server.start()
try:
    probe("package milvus 2.3.5", f"http://127.0.0.1:{default_server.listen_port}")
finally:
    default_server.stop()
probe("package milvus-lite 3.2.2", sys.argv[1] + "/lite.db")
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" "$folder" 2>/dev/null | tee "$folder/out"
diff "$folder/out" - <<'EXPECTED'
package milvus 2.3.5: holds 'lite' True, begins with 'milvus_lite' False
package milvus-lite 3.2.2: holds 'lite' True, begins with 'milvus_lite' True
EXPECTED
