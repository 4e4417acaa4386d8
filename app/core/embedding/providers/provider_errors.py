"""Reads a provider's error messages: the message without secrets and texts, and the limits that it states."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import openai
import orjson

MESSAGE_CHARS = 300
ECHO_CHARS = 16
"""A message that contains this many first characters of a text that was sent is taken to quote that text."""
REMOVED = "[removed]"
SECRETS = re.compile(
    r"""(?ix)
    (?P<url>\w+://)[^\s/@'"]+@                                       # user:password@ in a URL
    | (?P<bearer>\b(?:bearer|basic)\s+)[^\s'",;]+
    | (?P<named>\b[\w-]*(?:key|token|secret|password|signature|authorization)["']?\s*[=:]\s*["']?)[^\s'"&,;}]{6,}
    | \b(?:sk|pk|pa|up|jina|nvapi|hf|gsk|xai|nv|AIza|eyJ)[-_A-Za-z0-9]{12,}[-_.A-Za-z0-9]*
    | \b(?=[-_A-Za-z0-9]*[0-9])(?=[-_A-Za-z0-9]*[A-Za-z])[-_A-Za-z0-9]{32,}\b
    """
)
"""Keys in the forms that providers use, and any long run of letters and digits."""
MAXIMUM = r"(?:at most|max(?:imum)?\b|no more than|more than|larger than|largest|limit\w*|allowed|up to|exceed\w*|>)"
OTHER_UNIT = r"(?:token|char|byte|context|dimension|kb\b|mb\b)"
TEXTS = re.compile(rf"(?i){MAXIMUM}(?:(?!{OTHER_UNIT})[^\d]){{0,40}}?(\d[\d,]*)(?![\d.]*\s*{OTHER_UNIT})")
REQUEST_TOKENS = re.compile(
    r"(?i)tokens per (?:submitted )?(?:batch|request)\D{0,20}(\d[\d,]*)|max\w*\D{0,20}(\d[\d,]*) tokens per request"
)
INPUT_TOKENS = re.compile(
    r"(?i)(?:max\w*|less than|at most|limit|up to)\D{0,40}?(\d[\d,]*)\s*token"
    r"|token (?:size|limit|length)\D{0,10}(\d[\d,]*)"
)
ENCODING = re.compile(r"(?i)encoding_format|base64")


class StatedLimits(NamedTuple):
    """The limits in an error message: texts of a request, tokens of a request, tokens of a text."""

    texts: int | None = None
    request_tokens: int | None = None
    input_tokens: int | None = None


def error_message(exc: openai.APIStatusError, secrets: Iterable[str] = (), texts: Sequence[str] = ()) -> str:
    """The provider's error message in one line of at most MESSAGE_CHARS characters; empty if there is none.

    ``secrets``, anything that looks like a secret and quotations of ``texts`` are replaced by REMOVED.
    """
    message = " ".join(_message(exc.response.content).split())
    for secret in secrets:
        if secret:
            message = message.replace(secret, REMOVED)
    for text in texts:
        start = " ".join(text[: 4 * ECHO_CHARS].split())[:ECHO_CHARS]
        if len(start) == ECHO_CHARS and start in message:
            message = message[: message.index(start)] + REMOVED
    message = SECRETS.sub(_without_secret, message)
    return message if len(message) <= MESSAGE_CHARS else message[: MESSAGE_CHARS - 1] + "…"


def stated_limits(message: str, sent: int) -> StatedLimits:
    """The limits that an error message states, after a request of ``sent`` texts."""
    if found := REQUEST_TOKENS.search(message):
        return StatedLimits(request_tokens=_number(found))
    texts = [limit for found in TEXTS.finditer(message) if 0 < (limit := _number(found)) < sent]
    if texts:
        return StatedLimits(texts=texts[-1])
    return StatedLimits(input_tokens=_number(found) if (found := INPUT_TOKENS.search(message)) else None)


def mentions_encoding(message: str) -> bool:
    return ENCODING.search(message) is not None


def _number(found: re.Match[str]) -> int:
    return int(next(group for group in found.groups() if group).replace(",", ""))


def _without_secret(found: re.Match[str]) -> str:
    if found["url"]:
        return f"{found['url']}{REMOVED}@"
    return (found["bearer"] or found["named"] or "") + REMOVED


def _message(content: bytes) -> str:
    """The message in a body of OpenAI, TEI, vLLM, Cohere, Voyage, Jina or FastAPI, or a plain text."""
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        text = content[: 8 * MESSAGE_CHARS].decode(errors="replace")
        return "" if text.lstrip().startswith("<") else text  # An HTML page is a proxy's, not the provider's.
    return _find_message(body)


def _find_message(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "; ".join(filter(None, map(_find_message, value[:3])))
    if isinstance(value, dict):
        for name in ("error", "message", "detail", "msg", "errorMessage", "title"):
            if message := _find_message(value.get(name)):
                loc = value.get("loc")
                field = ".".join(map(str, loc)) if name == "msg" and isinstance(loc, list) else ""
                return f"{field}: {message}" if field else message
    return ""
