"""A page of a server in headless Chromium, which can reach no host but the server."""

import shutil
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, Request

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CLOSED_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
WAIT_MS = 30_000


class Watched:
    """A page, its requests and its errors."""

    def __init__(self, browser: Browser, server: str, **context: Any) -> None:
        self.page: Page = browser.new_page(**{"viewport": {"width": 1000, "height": 900}, **context})
        self.page.set_default_timeout(WAIT_MS)
        self._host = urlsplit(server).netloc
        self._requests: list[Request] = []
        self.errors: list[str] = []
        self.executed: set[str] = set()
        self.page.on("request", lambda request: self._requests.append(request))  # Playwright marks what it calls.
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)

    @property
    def requested(self) -> set[str]:
        """Paths of the server that the page requested."""
        return {urlsplit(request.url).path for request in self._requests if urlsplit(request.url).netloc == self._host}

    @property
    def other_hosts(self) -> dict[str, str | None]:
        """{URL: why it failed} of requests to other hosts. ``csp``: the request was never sent."""
        return {
            request.url: request.failure
            for request in self._requests
            if urlsplit(request.url).scheme in ("http", "https", "ws", "wss")
            and urlsplit(request.url).netloc != self._host
        }
