"""Loads a part from a request: for the lines of any route that takes parts."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Literal

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.api.errors import log_and_render
from app.api.limits import ConcurrencyLimiter, Limits
from app.api.stream_body import body_of
from app.core.services import Services
from app.core.transfer.streams import LineHandler, PartLoad
from app.models.streams import PartLoaded
from app.schemas.stream_rows import PartName
from app.utils.errors import AppError
from app.utils.stopwatch import Stopwatch

NDJSON = "application/x-ndjson"


class LinesResponse(StreamingResponse):
    """Starlette's own would receive messages while it sends, to notice a disconnect: those are the body of the part."""

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await self.stream_response(send)


Finish = Callable[[PartLoaded], Awaitable[PartLoaded]]


async def counted(loaded: PartLoaded) -> PartLoaded:
    """The answer is the counts alone."""
    return loaded


async def load_part(
    request: Request,
    name: PartName,
    account: str | None,
    handler: LineHandler[Any],
    answer: Literal["end", "stream"],
    finish: Finish = counted,
) -> Response:
    """Loads the part that is the request's body. ``stream``: the response has the results of lines while they are
    stored, and waits for its reader. ``finish``: what is done after the last line, and makes the answer of the counts.
    """
    answering = _answer(request, name, account, handler, finish)
    if answer == "stream":
        return LinesResponse(_with_error(answering), media_type=NDJSON)
    counts = b""
    async with aclosing(answering) as lines:
        async for line in lines:
            counts = line
    return Response(counts, media_type="application/json")


async def _answer(
    request: Request, name: PartName, account: str | None, handler: LineHandler[Any], finish: Finish
) -> AsyncGenerator[bytes]:
    """The results of new lines, then the counts."""
    timings = Stopwatch()
    streams: ConcurrencyLimiter = request.state.streams
    services: Services = request.state.services
    limits: Limits = request.state.limits
    async with streams.slot(request, account):
        loading = await services.streams.load(name, account, body_of(request), handler, limits.body_bytes)
        async with aclosing(loading.run()) as stored:
            async for some in stored:
                yield some.results
        counts = await finish(_counts(loading, name, timings))
    yield counts.model_copy(update={"total_time_ms": timings.total}).model_dump_json().encode() + b"\n"


async def _with_error(lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """An error, when the response has begun, is its last line: a problem document."""
    try:
        async for line in lines:
            yield line
    except AppError as exc:
        yield bytes(log_and_render(exc).body) + b"\n"


def _counts(loading: PartLoad[Any], name: PartName, timings: Stopwatch) -> PartLoaded:
    counts = loading.progress
    return PartLoaded(
        status="success" if not counts.failed else "partial" if counts.stored else "failed",
        stream_key=name.stream_key,
        part=name.part,
        lines=counts.lines,
        repeated=counts.repeated,
        stored=counts.stored,
        failed=counts.failed,
        total_time_ms=timings.total,
    )
