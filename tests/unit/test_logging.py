import logging
from collections.abc import Iterator

import pytest

from app.utils.errors import VectorIndexUnavailable
from app.utils.logging import LogFormat, configure, summarize


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """A logger of the server's; how its records are written stays as it was."""
    ours = logging.getLogger("app")
    handlers, level, propagate = ours.handlers[:], ours.level, ours.propagate
    yield logging.getLogger("app.test")
    ours.handlers[:], ours.propagate = handlers, propagate
    ours.setLevel(level)


def caught(chain: str) -> Exception:
    """What ``chain`` raises."""
    try:
        exec(chain)
    except Exception as exc:
        return exc
    raise AssertionError("nothing was raised")


def test_words_of_others_are_left_out() -> None:
    text = summarize(caught("raise ValueError('a secret')"))
    assert "a secret" not in text
    assert text.endswith("builtins.ValueError")


def test_a_chain_is_told_oldest_first() -> None:
    text = summarize(caught("try:\n 1/0\nexcept ZeroDivisionError as zero:\n raise KeyError('x') from zero"))
    assert text.index("ZeroDivisionError") < text.index("which led to:") < text.index("KeyError")


def test_a_suppressed_context_is_not_told() -> None:
    assert "ZeroDivisionError" not in summarize(
        caught("try:\n 1/0\nexcept ZeroDivisionError:\n raise KeyError from None")
    )


def test_all_of_a_group_are_told() -> None:
    text = summarize(ExceptionGroup("two", [ValueError(), TimeoutError()]))
    assert "builtins.ValueError" in text
    assert "builtins.TimeoutError" in text


@pytest.mark.parametrize("style", ["text", "json"])
def test_an_error_raised_from_itself_is_logged(
    log: logging.Logger, capsys: pytest.CaptureFixture[str], style: LogFormat
) -> None:
    """As pymilvus does in its decorators.py: ``raise e from e``."""
    configure("INFO", style)
    inner = caught("error = OSError('away')\nraise error from error")
    error = VectorIndexUnavailable("The vector index does not answer.")
    error.__cause__ = inner
    log.warning("a call failed", exc_info=error)
    line = capsys.readouterr().err
    assert line.count("OSError: away") == 1
    assert "VectorIndexUnavailable" in line


def test_a_ring_of_errors_is_told_once() -> None:
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert summarize(first).count("which led to:") == 1
