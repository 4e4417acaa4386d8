"""A table of requests: a value in, a status and an answer out, each row through HTTP on a real server.

A module of this folder whose name ends in ``_rows`` adds its ROWS to the table. Every row has a bot of its own, made
before the row's calls are sent. In strings ``<bot>`` is its chat_bot_id, ``<row>`` a name that no other row has, and a
string that is ``<doc>`` becomes the doc_id that the last call of ``given`` was answered with.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

FOUND = "낱말"
"""In the text of every chunk that ``insert`` makes, and what ``search`` asks for."""


@dataclass(frozen=True, slots=True)
class Call:
    method: str
    path: str
    body: Any = None
    content: bytes | None = None
    """Sent as it is, in place of ``body``."""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """``answer``: what is to be found in the answer; see ``differences``. ``then``: calls after it, with theirs."""

    kind: str
    name: str
    call: Call
    status: int
    answer: Any = None
    given: Sequence[Call] = ()
    then: Sequence[tuple[Call, int, Any]] = ()


def document(title: str = "제목", *texts: str, **fields: Any) -> dict[str, Any]:
    """A document with its chunks, of the row's bot."""
    chunks = [{"chunk_index": number, "text": text} for number, text in enumerate(texts or (f"{FOUND} {title}",))]
    return {"document": {"chat_bot_id": "<bot>", "title": title, **fields}, "chunks": chunks}


def insert(title: str = "제목", *texts: str, **fields: Any) -> Call:
    return Call("POST", "/data/insert", document(title, *texts, **fields))


def batch(*documents: Any, **headers: str) -> Call:
    return Call("POST", "/data/insert/batch", {"documents": list(documents)}, headers=headers)


def patch(updates: Any) -> Call:
    return Call("PATCH", "/data/document/<doc>/metadata", {"chat_bot_id": "<bot>", "metadata_updates": updates})


def get() -> Call:
    return Call("GET", "/data/document/<doc>?chat_bot_id=<bot>")


def search(filter: Any = None, **options: Any) -> Call:
    body = {"chat_bot_id": "<bot>", "query_text": FOUND, "limit": 50, **options}
    return Call("POST", "/search/query", body if filter is None else {**body, "filter": filter})


def titles(*expected: str) -> Callable[[Any], str | None]:
    """Of an answer to a search: the titles of the documents found, in any order."""

    def differ(answer: Any) -> str | None:
        found = sorted({result["document"]["title"] for result in answer["results"]})
        return None if found == sorted(expected) else f"found {found}, not {sorted(expected)}"

    return differ


def problem(code: str, *places: tuple[str, str]) -> dict[str, Any]:
    """Of an error: its code, and for each place where it is and a part of what is said."""
    errors = [{"loc": loc, "msg": containing(text)} for loc, text in places]
    return {"code": code, **({"errors": errors} if errors else {})}


def containing(text: str) -> Callable[[Any], str | None]:
    return lambda found: None if text in found else f"{found!r} does not hold {text!r}"


def differences(expected: Any, found: Any, at: str = "answer") -> list[str]:
    """What is not as expected: of an object the names that are given, of a list every item, else equality.

    A function returns what differs, or None.
    """
    if callable(expected):
        told = expected(found)
        return [f"{at}: {told}"] if told else []
    if isinstance(expected, dict) and isinstance(found, dict):
        return [
            line
            for name, value in expected.items()
            for line in (
                differences(value, found[name], f"{at}.{name}") if name in found else [f"{at}.{name} is missing"]
            )
        ]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = enumerate(zip(expected, found, strict=True))
        return [line for number, (one, other) in pairs for line in differences(one, other, f"{at}.{number}")]
    # 1 is not true, nor 1.0.
    return [] if (type(expected), expected) == (type(found), found) else [f"{at}: {found!r}, not {expected!r}"]


class Runner:
    """Sends a row's calls and compares the answers."""

    def __init__(self, http: httpx.Client, names: dict[str, Any]) -> None:
        self._http = http
        self._names = names

    def run(self, row: Row) -> None:
        for call in row.given:
            answer = self._send(call)
            assert answer.status_code in (200, 201), f"{call}: {answer.text}"
            if "doc_id" in answer.json():
                self._names["doc"] = answer.json()["doc_id"]
        for call, status, expected in [(row.call, row.status, row.answer), *row.then]:
            answer = self._send(call)
            assert answer.status_code == status, f"{call}: {answer.status_code} {answer.text}"
            if status >= 400:
                assert answer.headers["content-type"] == "application/problem+json"
            if expected is not None:
                found = differences(self._filled(expected), answer.json())
                assert not found, f"{call}\n{answer.text}\n" + "\n".join(found)

    def _send(self, call: Call) -> httpx.Response:
        path = re.sub("<(bot|row|doc)>", lambda match: str(self._names[match[1]]), call.path)
        headers = {name: self._filled(value) for name, value in call.headers.items()}
        if call.content is not None:
            content = call.content.replace(b"<bot>", self._names["bot"].encode())
            headers = {"Content-Type": "application/json", **headers}
            return self._http.request(call.method, path, content=content, headers=headers)
        if call.body is None:
            return self._http.request(call.method, path, headers=headers)
        return self._http.request(call.method, path, json=self._filled(call.body), headers=headers)

    def _filled(self, value: Any) -> Any:
        match value:
            case "<doc>":
                return self._names["doc"]
            case str():
                return value.replace("<bot>", self._names["bot"]).replace("<row>", self._names["row"])
            case list():
                return [self._filled(item) for item in value]
            case dict():
                return {self._filled(key): self._filled(item) for key, item in value.items()}
        return value
