"""Routes of /data/insert/stream: bulk loads by parts."""

from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Path, Query, Request, Response

from app.api.cursors import decode_cursor, encode_cursor, read_integer
from app.api.deps import READ, WRITE, AccountQuery, BotQuery, ServicesDep
from app.api.errors import BODY_ERRORS, COMMON_ERRORS, error_responses
from app.api.limits import LimitsDep
from app.api.parts import NDJSON, load_part
from app.api.stream_lines import DocumentLines
from app.api.streaming import streamed_body
from app.models.data import EXAMPLE_DOCUMENT
from app.models.fields import CURSOR_CHARS, INT32_MAX
from app.models.inserts import OnConflict
from app.models.streams import LINE_SCHEMA, LineResult, Part, PartLoaded, StreamResults, StreamState
from app.schemas.stream_rows import PartName, ResultPlace

router = APIRouter(prefix="/data/insert/stream", tags=["data"])

MAX_STREAMS = 8
"""How many parts an account may be loading at a time, in each process. They take no place among its writes."""
KEY_PATTERN = r"^[A-Za-z0-9._~-]{1,128}$"
KEY = "The client's name for the whole load, such as a UUID. Unique within the bot."
EXAMPLE_KEY = "load-2026-12-01"
EXAMPLE_LINE = orjson.dumps(EXAMPLE_DOCUMENT).decode()
StreamKeyQuery = Annotated[str, Query(alias="stream_key", pattern=KEY_PATTERN, description=KEY, examples=[EXAMPLE_KEY])]
StreamKeyPath = Annotated[str, Path(alias="stream_key", pattern=KEY_PATTERN, description=KEY, examples=[EXAMPLE_KEY])]
PartQuery = Annotated[int, Query(ge=1, le=INT32_MAX, description="The client's number of the part.", examples=[1])]
Answer = Annotated[
    Literal["end", "stream"],
    Query(
        description="end: the response has counts, and is sent after the last line. stream: NDJSON with the result "
        "of each new line as soon as it is stored, and the counts at the end; for clients that read while they send."
    ),
]
Conflict = Annotated[OnConflict, Query(description="As in /data/insert, for each line.")]
CursorQuery = Annotated[
    str | None,
    Query(max_length=CURSOR_CHARS, description="next_cursor of the previous page; leave it out for the first page."),
]
PartsLimit = Annotated[int, Query(ge=1, le=1_000, description="Maximum number of parts per page.")]
ResultsLimit = Annotated[int, Query(ge=1, le=1_000, description="Maximum number of lines per page.")]
REQUEST_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {NDJSON: {"schema": LINE_SCHEMA, "example": EXAMPLE_LINE}},
    }
}


@router.post(
    "",
    dependencies=[WRITE],
    response_model=PartLoaded,
    responses={
        200: {"content": {NDJSON: {"schema": {"type": "string", "description": "With answer=stream."}}}},
        **error_responses(404, 409, *BODY_ERRORS),
    },
    operation_id="load_part",
    openapi_extra=REQUEST_BODY,
)
@streamed_body(endless=True)
async def load(
    request: Request,
    bot_id: BotQuery,
    stream_key: StreamKeyQuery,
    part: PartQuery,
    services: ServicesDep,
    account: AccountQuery,
    limits: LimitsDep,
    on_conflict: Conflict = "error",
    answer: Answer = "end",
) -> Response:
    """Stores the documents of a part of a bulk load, one a line, of any number; the body may be compressed with gzip.

    A part that was cut off is sent again as it was: lines whose results are stored are skipped. A line that is not
    valid fails alone.
    """
    handler = DocumentLines(services.ingest, bot_id, account, limits, on_conflict)
    return await load_part(request, PartName(bot_id, stream_key, part), account, handler, answer)


@router.get(
    "/{stream_key}", dependencies=[READ], responses=error_responses(404, *COMMON_ERRORS), operation_id="get_stream"
)
async def get(
    stream_key: StreamKeyPath,
    bot_id: BotQuery,
    services: ServicesDep,
    account: AccountQuery,
    limit: PartsLimit = 100,
    cursor: CursorQuery = None,
) -> StreamState:
    """How far the parts of a bulk load are, by their number."""
    query = ("stream", bot_id, stream_key)
    (after,) = decode_cursor(cursor, query, "query.cursor", read_integer) if cursor else (0,)
    totals, parts, last = await services.streams.parts(bot_id, account, stream_key, after, limit)
    return StreamState(
        stream_key=stream_key,
        total_parts=totals.parts,
        lines=totals.lines,
        stored=totals.stored,
        failed=totals.failed,
        parts=[Part(**part._asdict() | {"sha256": part.sha256.hex()}) for part in parts],
        next_cursor=None if last is None else encode_cursor(query, last),
    )


@router.get(
    "/{stream_key}/results",
    dependencies=[READ],
    responses=error_responses(404, *COMMON_ERRORS),
    operation_id="get_stream_results",
)
async def get_results(
    stream_key: StreamKeyPath,
    bot_id: BotQuery,
    services: ServicesDep,
    account: AccountQuery,
    failed: Annotated[bool, Query(description="Only lines that failed.")] = False,
    limit: ResultsLimit = 100,
    cursor: CursorQuery = None,
) -> StreamResults:
    """The results of the lines of a bulk load, by the numbers of part and line."""
    query = ("stream results", bot_id, stream_key, failed)
    position = decode_cursor(cursor, query, "query.cursor", read_integer, read_integer) if cursor else (0, 0)
    results, last = await services.streams.results(
        bot_id, account, stream_key, ResultPlace(*position), limit, failed=failed
    )
    return StreamResults(
        results=[LineResult(part=place.part, **result) for place, result in results],
        next_cursor=None if last is None else encode_cursor(query, *last),
    )
