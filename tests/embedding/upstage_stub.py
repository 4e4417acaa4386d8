"""Both generations of Upstage's models: two spaces of vectors, each with a model for queries and one for passages."""

import itertools
import threading
import time

from tests.embedding.openai_server import Body, Reply, failing, item

FIRST, SECOND = "solar-embedding-1-large", "solar-embedding-2"
DIMENSIONS = {FIRST: 16, SECOND: 8}


class Upstage:
    """Both generations: 100 texts a request; each ninth request gets a 429, as above the rate limit."""

    def __init__(self) -> None:
        self.asked: set[tuple[str, str]] = set()
        self._requests = itertools.count(1)
        self._lock = threading.Lock()

    def __call__(self, body: Body) -> Reply:
        generation, _, side = body["model"].rpartition("-")
        if generation not in DIMENSIONS or side not in ("query", "passage"):
            return failing(404)(body)
        if len(body["input"]) > 100:
            return Reply(400, {"error": {"message": "at most 100 inputs"}})
        if len(body["input"]) > 20 and body["model"] == f"{SECOND}-passage":
            time.sleep(0.2)  # So that searches come in between.
        with self._lock:
            if next(self._requests) % 9 == 0:
                return failing(429, retry_after_ms="5")(body)
            self.asked |= {(body["model"], text) for text in body["input"]}
        # One space for both sides of a generation, and another for the other generation.
        data = [item(i, f"{generation} {text}", DIMENSIONS[generation]) for i, text in enumerate(body["input"])]
        return Reply(200, {"object": "list", "model": body["model"], "data": data, "usage": {"prompt_tokens": 9_000}})
