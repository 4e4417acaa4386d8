"""The Idempotency-Key header: a request that is sent again gets the answer of the first time."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import sha256
from typing import Annotated

import orjson
from fastapi import Depends, Header, Request, Response

from app.core.once import Once
from app.core.write import Outcome

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Makes the request safe to send again: for 24 hours the same key gets the same answer, and one "
        "effect. A random UUID will do. Another request under the same key is refused.",
    ),
]


class Answering:
    """Builds a handler's answer, once for each Idempotency-Key."""

    def __init__(self, key: str | None, body_sha256: bytes) -> None:
        self._key = key
        self._body_sha256 = body_sha256

    async def __call__(
        self,
        status: int,
        build: Callable[[Sequence[Outcome]], Mapping[str, object]],
        run: Callable[[Once | None], Awaitable[Sequence[Outcome]]],
    ) -> Response:
        """``run`` does the work, ``build`` makes the answer of it; with a key, inside the transaction that commits."""

        def render(outcomes: Sequence[Outcome]) -> bytes:
            return orjson.dumps(build(outcomes))

        once = None if self._key is None else Once(self._key, self._body_sha256, render)
        outcomes = await run(once)
        stored = once.answer if once else None
        headers = {"Idempotency-Replayed": "true"} if once and once.replayed else None
        return Response(render(outcomes) if stored is None else stored, status, headers, "application/json")


async def _answering(request: Request, key: Key = None) -> Answering:
    if key is None:
        return Answering(None, b"")
    head = f"{request.method} {request.url.path}\n".encode()
    return Answering(key, sha256(head + await request.body()).digest())


AnsweringDep = Annotated[Answering, Depends(_answering)]
