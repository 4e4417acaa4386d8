"""Route of imports: the file of an export is a part, as those of /data/insert/stream."""

from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from msgspec.json import encode

from app.api.deps import WRITE, AccountQuery, BotQuery, ServicesDep
from app.api.errors import BODY_ERRORS, error_responses
from app.api.limits import Limits, LimitsDep, check_document
from app.api.parts import NDJSON, load_part
from app.api.stream_lines import place, rendered, too_long
from app.api.streaming import streamed_body
from app.api.streams import KEY, KEY_PATTERN, Answer, Conflict, PartQuery
from app.core.transfer.format import FORMAT, VERSION, ExportedBot, Manifest, WholeCheck, end_line
from app.core.transfer.importing import Importer
from app.core.transfer.lines import Digest
from app.core.transfer.streams import LineHandler
from app.core.write.recorded import LinesRequest
from app.core.write.upsert import OnConflict
from app.core.write.write import Outcome
from app.models.collection import EXAMPLE_BOT
from app.models.streams import PartImported, PartLoaded
from app.models.transfer import read_document
from app.schemas.rows import NewDocument
from app.schemas.stream_rows import LineResults, PartName
from app.utils.errors import AppError, InvalidInput, MalformedBody

router = APIRouter(prefix="/collection", tags=["collection"])

EXAMPLE_MANIFEST = Manifest(
    FORMAT,
    VERSION,
    UUID("5b0e9f37-6a1c-4d58-9c2e-7f4a1d3b8e60"),
    datetime(2026, 12, 1, tzinfo=UTC),
    ExportedBot(UUID(EXAMPLE_BOT), "guide", "guide", "acme", datetime(2026, 11, 1, tzinfo=UTC), None, None, 1, True),
    vectors=False,
    documents=1,
    chunks=1,
)
EXAMPLE_DOCUMENT = {
    "document": {"title": "창덕궁 안내", "external_id": "guide/changdeokgung.txt"},
    "created_at": "2026-11-02T09:00:00Z",
    "chunks": [{"chunk_index": 0, "text": "창덕궁은 1405년에 지어졌다."}],
}
_LINES = b"".join(one + b"\n" for one in (encode(EXAMPLE_MANIFEST), encode(EXAMPLE_DOCUMENT)))
EXAMPLE = (_LINES + end_line(1, 1, 0, sha256(_LINES).hexdigest())).decode()
BODY = {"schema": {"type": "string", "description": "NDJSON: the lines of an export."}, "example": EXAMPLE}
REQUEST_BODY: dict[str, Any] = {
    # Any type is accepted. /docs sends text as it is, but several lines of any kind of JSON as one JSON string.
    "requestBody": {"required": True, "content": {"text/plain": BODY, NDJSON: BODY}}
}


class ExportLines(LineHandler[NewDocument]):
    """The lines of an export. The first and the last one are no documents and have no results."""

    def __init__(
        self,
        importer: Importer,
        bot_id: UUID,
        account: str | None,
        limits: Limits,
        on_conflict: OnConflict,
        *,
        vectors: bool,
    ) -> None:
        self._importer = importer
        self._bot_id = bot_id
        self._account = account
        self._limits = limits
        self._on_conflict = on_conflict
        self._vectors = vectors
        self._whole = WholeCheck()

    @property
    def torn(self) -> str | None:
        return self._whole.torn

    def see(self, line: bytes | None, before: Digest) -> None:
        self._whole.see(line, before)

    def read(self, number: int, line: bytes | None) -> NewDocument | AppError | None:
        where, manifest = place(number), self._whole.manifest
        if line is None:
            return too_long(where, self._limits)
        if manifest is None or number == 1 or self._whole.end is not None:
            return None
        model = manifest.bot.model if self._vectors else None
        try:
            return read_document(line, self._bot_id, model, lambda item: check_document(item, self._limits, where))
        except MalformedBody as exc:
            return MalformedBody(f"{where}: {exc.detail}")
        except InvalidInput as exc:
            return exc if exc.locations else InvalidInput.at(where, exc.detail)

    def chunks(self, content: NewDocument) -> int:
        return len(content.chunks)

    def external_id(self, content: NewDocument) -> str | None:
        return content.external_id

    async def write(self, contents: Sequence[NewDocument | AppError], request: LinesRequest) -> LineResults:
        return await self._importer.store_lines(self._account, contents, request, self._on_conflict)

    def render(self, numbers: Sequence[int], outcomes: Sequence[Outcome]) -> LineResults:
        return rendered(numbers, outcomes)


@router.post(
    "/import",
    dependencies=[WRITE],
    response_model=PartImported,
    responses={
        200: {"content": {NDJSON: {"schema": {"type": "string", "description": "With answer=stream."}}}},
        **error_responses(404, 409, *BODY_ERRORS),
    },
    operation_id="import_collection",
    openapi_extra=REQUEST_BODY,
)
@streamed_body(endless=True)
async def import_export(
    request: Request,
    bot_id: BotQuery,
    stream_key: Annotated[str, Query(pattern=KEY_PATTERN, description=KEY, examples=["import-2026-12-01"])],
    services: ServicesDep,
    account: AccountQuery,
    limits: LimitsDep,
    part: PartQuery = 1,
    on_conflict: Conflict = "error",
    vectors: Annotated[bool, Query(description="Take vectors of the bot's own model. false: embed all texts.")] = True,
    verify: Annotated[bool, Query(description="Compare the stores of the bot after the last line.")] = True,
    answer: Answer = "end",
) -> Response:
    """Stores the documents of an export in a bot that exists: that of the export, or another.

    The file is a part of a bulk load, so that one that was cut off is sent again as it was. Its results are read as
    those of /data/insert/stream.
    """
    handler = ExportLines(services.importer, bot_id, account, limits, on_conflict, vectors=vectors)

    async def finish(loaded: PartLoaded) -> PartImported:
        verified = None
        if verify:
            found = await services.verifier.report(bot_id)
            verified = {"findings": found.total, **found.as_json()}
        torn = handler.torn
        members = {"status": "torn" if torn else loaded.status, "torn": torn, "verified": verified}
        return PartImported.model_validate(loaded.model_dump() | members)

    return await load_part(request, PartName(bot_id, stream_key, part), account, handler, answer, finish)
