"""Log lines as text or as JSON, each with the id of its request.

User data must not get into a log: no text, no API key, no vector. The message of a driver's exception can contain them.
So for exceptions of other libraries, only the class and the code locations are written.
"""

import logging
import sys
import time
import traceback
from contextvars import ContextVar
from typing import Any, Literal

import orjson

from app.utils.errors import AppError, StartupError

request_id: ContextVar[str] = ContextVar("request_id", default="-")

LogFormat = Literal["text", "json"]
TEXT = "%(asctime)s %(levelname)-7s [%(request_id)s] %(name)s: %(message)s"
SAFE_EXCEPTIONS = (AppError, StartupError, OSError)
"""Exceptions whose messages come from this package or from the operating system."""


def summarize(exc: BaseException) -> str:
    """The chain of exceptions with their code locations, oldest first, without messages of other libraries."""
    return "\n".join(line.rstrip("\n") for line in _lines(exc, set()))


def _lines(exc: BaseException, seen: set[int]) -> list[str]:
    """``seen`` has the ids of the exceptions so far, since pymilvus raises exceptions ``from`` themselves."""
    seen.add(id(exc))
    lines = []
    before = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
    if before is not None and id(before) not in seen:
        lines += [*_lines(before, seen), "which led to:"]
    lines += traceback.format_tb(exc.__traceback__)
    name = f"{type(exc).__module__}.{type(exc).__qualname__}"
    code = getattr(exc, "sqlstate", None)
    detail = f": {exc}" if isinstance(exc, SAFE_EXCEPTIONS) else f" (SQLSTATE {code})" if isinstance(code, str) else ""
    lines.append(name + detail)
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            lines += _lines(inner, seen)
    return lines


class _Formatter(logging.Formatter):
    def __init__(self, style: LogFormat = "text") -> None:
        super().__init__(TEXT)
        self._json = style == "json"

    def format(self, record: logging.LogRecord) -> str:
        record.__dict__["request_id"] = request_id.get()
        return self._as_json(record) if self._json else super().format(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802  The library's name.
        return summarize(ei[1])

    def _as_json(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "request_id": request_id.get(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1]:
            line["exception"] = summarize(record.exc_info[1])
        return orjson.dumps(line, default=str).decode("utf-8", "replace")


def configure(level: str, style: LogFormat = "text") -> None:
    """Sends this package's log records to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(style))
    app = logging.getLogger("app")
    app.handlers[:] = [handler]
    app.setLevel(level)
    app.propagate = False


def uvicorn_config(level: str, style: LogFormat) -> dict[str, Any]:
    """For logging.config: lines of uvicorn, and warnings of other libraries, in the same format."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"default": {"()": _Formatter, "style": style}, "access": {"()": _Formatter, "style": style}},
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": "default", "stream": "ext://sys.stderr"}
        },
        "loggers": {"uvicorn": {"handlers": ["stderr"], "level": level, "propagate": False}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
    }
