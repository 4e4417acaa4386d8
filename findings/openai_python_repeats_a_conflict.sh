#!/usr/bin/env bash
# openai 3.57.0 against a local HTTP server that always answers 409.
#
# Guess: the client repeats what may pass by itself (429, 5xx, a lost connection). A 409 says that the request contradicts
#   the present state, so it is raised at once, as a 400 or 423 is.
# Seen: a 409 is sent three times, with pauses between them, before ConflictError is raised. A server that means
#   "it stays so" has to say `x-should-retry: false`; the header is not part of HTTP.
# Output:
#   423: 1 request
#   409: 3 requests
#   409 with x-should-retry false: 1 request
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check openai==3.57.0
cat >"$folder/probe.py" <<'PY'
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai

answer = {"status": 200, "headers": {}, "requests": 0}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        answer["requests"] += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b'{"error": {"message": "no"}}'
        self.send_response(answer["status"])
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **answer["headers"]}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(api_key="none", base_url=f"http://127.0.0.1:{server.server_port}/v1")
for status, headers in ((423, {}), (409, {}), (409, {"x-should-retry": "false"})):
    answer.update(status=status, headers=headers, requests=0)
    try:
        client.vector_stores.search("vs_1", query="text")
    except openai.APIStatusError as exc:
        assert exc.status_code == status
    said = "".join(f" with {name} {value}" for name, value in headers.items())
    print(f"{status}{said}: {answer['requests']} request{'s' * (answer['requests'] > 1)}")
PY
"$folder/venv/bin/python" "$folder/probe.py" | tee "$folder/out"
diff "$folder/out" - <<'EXPECTED'
423: 1 request
409: 3 requests
409 with x-should-retry false: 1 request
EXPECTED
