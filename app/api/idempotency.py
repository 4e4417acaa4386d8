"""The Idempotency-Key header: a request that is sent again gets the answer of the first time."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import sha256
from typing import Annotated

import orjson
from fastapi import Depends, Header, Request, Response

from app.api.limits import ConcurrencyLimiter
from app.core.write.idempotency import IdempotentRequest
from app.core.write.write import Outcome

VISIBLE = r"[\x21-\x7e]"
KEY_CHARS = 255
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=KEY_CHARS,
        pattern=f"^{VISIBLE}+$",
        description="Makes the request safe to send again: for 24 hours the same key gets the same answer, and one "
        "effect. A random UUID will do. Another request under the same key is refused.",
    ),
]


class IdempotentResponder:
    """Builds a handler's answer, once for each Idempotency-Key."""

    def __init__(self, request: Request, key: str | None, body: bytes = b"") -> None:
        self._request = request
        self._key = key
        self._body = body

    async def __call__(
        self,
        status: int,
        account: str | None,
        build: Callable[[Sequence[Outcome]], Mapping[str, object]],
        run: Callable[[IdempotentRequest | None], Awaitable[Sequence[Outcome]]],
    ) -> Response:
        """``run`` does the work, ``build`` makes the answer of it; with a key, inside the transaction that commits.

        Raises TooManyWrites when ``account``, or the address where there is none, has as many at work as it may.
        """

        def render(outcomes: Sequence[Outcome]) -> bytes:
            return orjson.dumps(build(outcomes))

        writes: ConcurrencyLimiter = self._request.state.writes
        async with writes.slot(self._request, account):
            once = None if self._key is None else IdempotentRequest(self._key, self._body_sha256(), render)
            outcomes = await run(once)
        stored = once.answer if once else None
        headers = {"Idempotency-Replayed": "true"} if once and once.replayed else None
        return Response(render(outcomes) if stored is None else stored, status, headers, "application/json")

    def _body_sha256(self) -> bytes:
        head = f"{self._request.method} {self._request.url.path}\n".encode()
        return sha256(head + self._body).digest()


async def _answering(request: Request, key: Key = None) -> IdempotentResponder:
    return IdempotentResponder(request, key, await request.body())


AnsweringDep = Annotated[IdempotentResponder, Depends(_answering)]
