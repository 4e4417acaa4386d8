"""The Idempotency-Key header: a repeated request gets the response of the first one and has no second effect."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import sha256
from typing import Annotated

import orjson
from fastapi import Depends, Header, Request, Response

from app.api.limits import ConcurrencyLimiter
from app.core.write.idempotency import IdempotentRequest
from app.core.write.write import Outcome

VISIBLE_ASCII = r"[\x21-\x7e]"
MAX_KEY_CHARS = 255
CONDITIONS = ("If-Match", "If-None-Match")
IDEMPOTENCY_KEY = re.compile(f"{VISIBLE_ASCII}{{1,{MAX_KEY_CHARS}}}".encode())
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=MAX_KEY_CHARS,
        pattern=f"^{VISIBLE_ASCII}+$",
        description="Makes it safe to repeat the request. For 24 hours, a request with the same key and the same body "
        "gets the same response and has no second effect. Use a random UUID, for example. A different request with "
        "the same key is rejected.",
    ),
]


class IdempotentResponder:
    """Runs a write and builds its response, once for each Idempotency-Key. Limits an account's concurrent writes."""

    def __init__(self, request: Request, idempotency_key: str | None, body: bytes) -> None:
        self._request = request
        self._idempotency_key = idempotency_key
        self._body = body

    async def __call__(
        self,
        status: int | Callable[[bytes], int],
        account: str | None,
        run: Callable[[IdempotentRequest | None], Awaitable[Sequence[Outcome]]],
        build: Callable[[Sequence[Outcome]], Mapping[str, object]],
        *,
        of_document: bool = True,
    ) -> Response:
        """``run`` does the work, ``build`` makes the body from its outcomes. ``status`` may depend on the body.

        With an Idempotency-Key, ``build`` is called inside the transaction that commits the work. ``of_document``: the
        request writes one document, whose ETag the response has unless it is replayed. Raises TooManyWrites
        if ``account``, or the client's address where there is no account, has too many writes in progress.
        """

        def render(outcomes: Sequence[Outcome]) -> bytes:
            return orjson.dumps(build(outcomes))

        writes: ConcurrencyLimiter = self._request.state.writes
        async with writes.slot(self._request, account):
            key = self._idempotency_key
            idempotent = None if key is None else IdempotentRequest(key, self._request_sha256(), render)
            outcomes = await run(idempotent)
        stored = idempotent.answer if idempotent else None
        headers = {"Idempotency-Replayed": "true"} if idempotent and idempotent.replayed else {}
        if of_document and outcomes and (version := outcomes[0].version):
            headers["ETag"] = version.etag
        content = render(outcomes) if stored is None else stored
        return Response(content, status if isinstance(status, int) else status(content), headers, "application/json")

    def _request_sha256(self) -> bytes:
        query = f"?{self._request.url.query}" if self._request.url.query else ""
        conditions = "".join(f"\n{name}: {line}" for name in CONDITIONS for line in self._request.headers.getlist(name))
        head = f"{self._request.method} {self._request.url.path}{query}{conditions}\n".encode()
        return sha256(head + self._body).digest()


def created_or_ok(content: bytes) -> int:
    """201 for the body of an insert that created a document, 200 for any other."""
    return 201 if orjson.loads(content)["result"] == "created" else 200


async def idempotent_responder(request: Request, key: IdempotencyKey = None) -> IdempotentResponder:
    return IdempotentResponder(request, key, await request.body())


ResponderDep = Annotated[IdempotentResponder, Depends(idempotent_responder)]
