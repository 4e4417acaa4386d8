"""Log lines, each with the id of the request that caused it."""

import logging
import sys
from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="-")

FORMAT = "%(asctime)s %(levelname)-7s [%(request_id)s] %(name)s: %(message)s"


class _RequestId(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True


def configure(level: str) -> None:
    """Sends this package's records to stderr. Other libraries' warnings come too, their chatter does not."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(FORMAT))
    handler.addFilter(_RequestId())
    app = logging.getLogger("app")
    app.handlers[:] = [handler]
    app.setLevel(level)
    app.propagate = False
