"""What a provider says in a refusal: its own sentence, without secrets and texts, and the limit that it names."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import openai
import orjson

SENTENCE_CHARS = 300
ECHO_CHARS = 16
"""So many first characters of a text that was sent tell that it is quoted."""
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
"""Keys in the forms that providers give them, and any long run of letters and digits."""
MOST = r"(?:at most|max(?:imum)?\b|no more than|more than|larger than|largest|limit\w*|allowed|up to|exceed\w*|>)"
OF_TEXT = r"(?:token|char|byte|context|dimension|kb\b|mb\b)"
TEXTS = re.compile(rf"(?i){MOST}(?:(?!{OF_TEXT})[^\d]){{0,40}}?(\d[\d,]*)(?![\d.]*\s*{OF_TEXT})")
REQUEST_TOKENS = re.compile(
    r"(?i)tokens per (?:submitted )?(?:batch|request)\D{0,20}(\d[\d,]*)|max\w*\D{0,20}(\d[\d,]*) tokens per request"
)
INPUT_TOKENS = re.compile(
    r"(?i)(?:max\w*|less than|at most|limit|up to)\D{0,40}?(\d[\d,]*)\s*token"
    r"|token (?:size|limit|length)\D{0,10}(\d[\d,]*)"
)
ENCODING = re.compile(r"(?i)encoding_format|base64")


class NamedLimits(NamedTuple):
    """What a refusal says that is allowed: texts of a request, tokens of a request, tokens of a text."""

    texts: int | None = None
    request_tokens: int | None = None
    input_tokens: int | None = None


def sentence(exc: openai.APIStatusError, secrets: Iterable[str] = (), texts: Sequence[str] = ()) -> str:
    """The provider's words in one line of at most SENTENCE_CHARS characters; empty if it has none.

    ``secrets`` and whatever looks like one are removed, and of ``texts`` what is quoted.
    """
    said = " ".join(_said(exc.response.content).split())
    for secret in secrets:
        if secret:
            said = said.replace(secret, REMOVED)
    for text in texts:
        start = " ".join(text[: 4 * ECHO_CHARS].split())[:ECHO_CHARS]
        if len(start) == ECHO_CHARS and start in said:
            said = said[: said.index(start)] + REMOVED
    said = SECRETS.sub(_removed, said)
    return said if len(said) <= SENTENCE_CHARS else said[: SENTENCE_CHARS - 1] + "…"


def named_limits(said: str, sent: int) -> NamedLimits:
    """The limits that the sentence names, where ``sent`` texts were refused."""
    if found := REQUEST_TOKENS.search(said):
        return NamedLimits(request_tokens=_number(found))
    texts = [limit for found in TEXTS.finditer(said) if 0 < (limit := _number(found)) < sent]
    if texts:
        return NamedLimits(texts=texts[-1])
    return NamedLimits(input_tokens=_number(found) if (found := INPUT_TOKENS.search(said)) else None)


def refuses_encoding(said: str) -> bool:
    return ENCODING.search(said) is not None


def _number(found: re.Match[str]) -> int:
    return int(next(group for group in found.groups() if group).replace(",", ""))


def _removed(found: re.Match[str]) -> str:
    if found["url"]:
        return f"{found['url']}{REMOVED}@"
    return (found["bearer"] or found["named"] or "") + REMOVED


def _said(content: bytes) -> str:
    """Of an error in the forms of OpenAI, TEI, vLLM, Cohere, Voyage, Jina, FastAPI, or as plain text."""
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        text = content[: 8 * SENTENCE_CHARS].decode(errors="replace")
        return "" if text.lstrip().startswith("<") else text  # A proxy's page says nothing about the request.
    return _words(body)


def _words(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "; ".join(filter(None, map(_words, value[:3])))
    if isinstance(value, dict):
        for name in ("error", "message", "detail", "msg", "errorMessage", "title"):
            if said := _words(value.get(name)):
                where = value.get("loc")
                named = ".".join(map(str, where)) if name == "msg" and isinstance(where, list) else ""
                return f"{named}: {said}" if named else said
    return ""
