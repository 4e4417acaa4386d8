"""The lines of /data/insert/stream: each is a document with its chunks, as in the body of /data/insert/batch."""

from collections.abc import Sequence
from json import JSONDecodeError
from uuid import UUID

import orjson

from app.api.data import item_error
from app.api.limits import Limits, checked_item
from app.core.transfer.lines import Digest
from app.core.transfer.streams import LineHandler
from app.core.write.ingest import Ingest
from app.core.write.recorded import LinesRequest
from app.core.write.upsert import NEEDS_EXTERNAL_ID, OnConflict
from app.core.write.write import Outcome
from app.models.inserts import read_item
from app.schemas.rows import NewDocument
from app.schemas.stream_rows import LineResults
from app.utils.errors import AppError, BodyTooLarge, ErrorLocation, InvalidInput, MalformedBody
from app.utils.stopwatch import Stopwatch

OTHER_BOT = "is not the bot of this stream"
NOT_UTF8 = "is not UTF-8"

Entry = tuple[UUID, NewDocument]


def place(number: int) -> str:
    """The location of a line."""
    return f"body.lines.{number}"


class DocumentLines(LineHandler[Entry]):
    def __init__(
        self, ingest: Ingest, bot_id: UUID, account: str | None, limits: Limits, on_conflict: OnConflict
    ) -> None:
        self._ingest = ingest
        self._bot_id = bot_id
        self._account = account
        self._limits = limits
        self._on_conflict = on_conflict

    def see(self, line: bytes | None, before: Digest) -> None: ...

    def read(self, number: int, line: bytes | None) -> Entry | AppError:
        where = place(number)
        if line is None:
            return too_long(where, self._limits)
        try:
            item = checked_item(read_item(line), self._limits, where)
        except ValueError as exc:
            return _malformed(where, exc)
        if isinstance(item, AppError):
            return item
        if item.document.chat_bot_id != self._bot_id:
            return InvalidInput.at(f"{where}.document.chat_bot_id", OTHER_BOT)
        if item.document.external_id is None and self._on_conflict != "error":
            return InvalidInput.at(f"{where}.document.external_id", NEEDS_EXTERNAL_ID)
        return self._bot_id, item.new_document()

    def chunks(self, content: Entry) -> int:
        return len(content[1].chunks)

    def external_id(self, content: Entry) -> str | None:
        return content[1].external_id

    async def write(self, contents: Sequence[Entry | AppError], request: LinesRequest) -> LineResults:
        return await self._ingest.insert_lines(self._account, contents, Stopwatch(), request, self._on_conflict)

    def render(self, numbers: Sequence[int], outcomes: Sequence[Outcome]) -> LineResults:
        return rendered(numbers, outcomes)


def too_long(where: str, limits: Limits) -> BodyTooLarge:
    return BodyTooLarge(f"{where}: is longer than {limits.body_bytes:,} bytes")


def rendered(numbers: Sequence[int], outcomes: Sequence[Outcome]) -> LineResults:
    """The results of the lines with these numbers."""
    failed = sum(outcome.error is not None for outcome in outcomes)
    results = [
        orjson.dumps(
            {
                "line": number,
                "success": outcome.error is None,
                "doc_id": outcome.doc_id,
                "result": None if outcome.error else outcome.result,
                "error": item_error(place(number), outcome.error) if outcome.error else None,
            },
            option=orjson.OPT_APPEND_NEWLINE,
        )
        for number, outcome in zip(numbers, outcomes, strict=True)
    ]
    return LineResults(len(outcomes) - failed, failed, b"".join(results))


def _malformed(where: str, exc: ValueError) -> MalformedBody:
    if isinstance(exc, JSONDecodeError):
        where, reason = f"{where}.{exc.pos}", exc.msg
    else:
        reason = NOT_UTF8 if isinstance(exc, UnicodeDecodeError) else str(exc)
    return MalformedBody(f"{where}: {reason}", locations=[ErrorLocation(where, reason)])
