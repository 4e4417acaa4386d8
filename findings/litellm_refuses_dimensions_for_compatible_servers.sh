#!/usr/bin/env bash
# litellm 1.110.2 against a local OpenAI-compatible server.
#
# Guess: `litellm.embedding(model="openai/NAME", api_base=...)` passes `dimensions` on, since only the server behind the URL
#   knows its models.
# Seen: nothing is sent. Whether a model has `dimensions` is decided by its name: one without "text-embedding-3" in it is
#   refused on the client, even though api_base is a server of one's own. `allowed_openai_params=["dimensions"]` sends it.
# Output:
#   dimensions=2: UnsupportedParamsError, 0 requests
#   and allowed_openai_params: sent 2
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check litellm==1.110.2
cat >"$folder/probe.py" <<'PY'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import litellm

bodies: list[dict[str, object]] = []


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        item = {"object": "embedding", "index": 0, "embedding": [1.0, 0.0]}
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        body = json.dumps({"object": "list", "model": "m", "data": [item], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
call = {
    "model": "openai/kure-v1",
    "input": ["text"],
    "api_base": f"http://127.0.0.1:{server.server_port}/v1",
    "api_key": "none",
    "dimensions": 2,
}
try:
    litellm.embedding(**call)
except litellm.UnsupportedParamsError as exc:
    print(f"dimensions=2: {type(exc).__name__}, {len(bodies)} requests")
litellm.embedding(**call, allowed_openai_params=["dimensions"])
print(f"and allowed_openai_params: sent {bodies[-1]['dimensions']}")
PY
LITELLM_LOCAL_MODEL_COST_MAP=True "$folder/venv/bin/python" -W ignore "$folder/probe.py" 2>/dev/null | tee "$folder/out"
diff "$folder/out" - <<'EXPECTED'
dimensions=2: UnsupportedParamsError, 0 requests
and allowed_openai_params: sent 2
EXPECTED
