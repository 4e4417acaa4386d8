"""A blocking client of the API for scripts."""

import http.client
import json
import threading
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit


class ApiClient:
    """Keeps one connection for each thread. Raises SystemExit with one line when a call fails."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        if self._url.scheme not in kinds or not self._url.netloc:
            raise SystemExit(f"{url!r} is not the address of a server: write it like http://127.0.0.1:8000.")
        self._kind = kinds[self._url.scheme]
        self._local = threading.local()

    def call(self, method: str, path: str, body: object = None, *, expect: Sequence[int] = (200, 201)) -> Any:
        """The parsed answer. Raises SystemExit for a status that is not in ``expect``."""
        try:
            if not hasattr(self._local, "connection"):
                self._local.connection = self._kind(self._url.netloc, timeout=300)
            data = None if body is None else json.dumps(body)
            self._local.connection.request(method, path, data, {"Content-Type": "application/json"})
            answer = self._local.connection.getresponse()
            content = json.loads(answer.read())
        except (OSError, ValueError, http.client.HTTPException) as exc:
            raise SystemExit(f"No server at {self._url.geturl()} ({exc}): start one with scripts/server.") from exc
        if answer.status not in expect:
            raise SystemExit(f"{method} {path}: {answer.status} {content.get('detail', content)}")
        return content
