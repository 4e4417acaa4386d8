"""A slow reranker that speaks TEI's API: ``python -m scripts.slow_reranker`` prints its port and serves."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from scripts.own_server import ROOT

SECONDS_A_PAIR = 0.01


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        texts = json.loads(self.rfile.read(int(self.headers["content-length"])))["texts"]
        time.sleep(SECONDS_A_PAIR * len(texts))
        content = json.dumps([{"index": index, "score": 1 / (1 + index)} for index in range(len(texts))]).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing."""


@contextmanager
def slow_reranker() -> Iterator[str]:
    """Starts one in another process and yields its URL."""
    command = [sys.executable, "-m", "scripts.slow_reranker"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/rerank"
        finally:
            process.terminate()


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
