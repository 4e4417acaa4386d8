"""A stub of OpenAI's embeddings API on loopback, which can be made to misbehave."""

import json
import sys
import threading
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from app.core.embedding.port import Vectors

NATIVE = 8
INPUTS, INPUT_TOKENS, REQUEST_TOKENS = 2_048, 8_192, 300_000


def vector(text: str, dimension: int = NATIVE) -> Vectors:
    """The server's vector of a text, not of length 1."""
    numbers = np.frombuffer(blake2b(text.encode(), digest_size=dimension).digest(), np.int8)
    return numbers.astype(np.float32) + 0.5


def expected(texts: Sequence[str], dimension: int = NATIVE) -> Vectors:
    """The vectors of texts, normalised to length 1."""
    vectors = np.stack([vector(text, dimension) for text in texts])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def tokens(text: str) -> int:
    """One for each character, the most that there can be."""
    return len(text)


def item(index: int, text: str, dimension: int = NATIVE, encoding: str = "base64") -> dict[str, Any]:
    numbers = vector(text, dimension)
    plain = b64encode(numbers.astype("<f4").tobytes()).decode() if encoding == "base64" else numbers.tolist()
    return {"object": "embedding", "index": index, "embedding": plain}


@dataclass(frozen=True)
class Reply:
    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)


Body = dict[str, Any]
Behaviour = Callable[[Body], Reply]


def good(body: Body) -> Reply:
    """As OpenAI: a request over its limits is rejected with 400."""
    texts, dimension = body["input"], body.get("dimensions", NATIVE)
    sizes = [tokens(text) for text in texts]
    if len(texts) > INPUTS or max(sizes) > INPUT_TOKENS or sum(sizes) > REQUEST_TOKENS:
        return failing(400, code="context_length_exceeded")(body)
    data = [item(index, text, dimension, body["encoding_format"]) for index, text in enumerate(texts)]
    return answer(data)


def answer(data: list[dict[str, Any]]) -> Reply:
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    return Reply(200, {"object": "list", "model": "m", "data": data, "usage": usage})


def changed(change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Behaviour:
    """Like ``good``, with the items changed by ``change``."""
    return lambda body: answer(change(good(body).body["data"]))


def failing(status: int, *, code: str | None = None, **headers: str) -> Behaviour:
    error = {"message": "secret of the provider", "type": "error", "param": None, "code": code}
    return lambda _: Reply(status, {"error": error}, {name.replace("_", "-"): value for name, value in headers.items()})


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client may leave before its answer is written; other errors are printed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class OpenAIServer:
    """``then`` holds the behaviours for the next requests, ``always`` the one for all requests after them."""

    def __init__(self) -> None:
        self.requests: list[Body] = []
        self.bodies: list[bytes] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.then: deque[Behaviour] = deque()
        self.always: Behaviour = good
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                reply = owner.take(self.path, dict(self.headers.items()), raw)
                content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                self.send_response(reply.status)
                headers = {"content-type": "application/json", "content-length": str(len(content)), **reply.headers}
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def take(self, path: str, headers: dict[str, str], raw: bytes) -> Reply:
        body = json.loads(raw)
        with self._lock:
            self.bodies.append(raw)
            self.paths.append(path)
            self.headers.append({name.lower(): value for name, value in headers.items()})
            self.requests.append(body)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            behaviour = self.then.popleft() if self.then else self.always
        self.entered.release()
        assert self.gate.wait(10)
        with self._lock:
            self._at_once -= 1
        return behaviour(body)

    @property
    def texts(self) -> list[str]:
        return [text for body in self.requests for text in body["input"]]

    def forget(self) -> None:
        self.requests.clear()
        self.bodies.clear()
        self.paths.clear()
        self.headers.clear()

    def close(self) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
