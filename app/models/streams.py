"""Responses of /data/insert/stream."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from app.models.base import Response
from app.models.data import ItemError, Result
from app.models.fields import Milliseconds

Lines = Annotated[int, Field(description="The first lines of the part: their results are stored.")]
Stored = Annotated[int, Field(description="Lines that succeeded.")]
Failed = Annotated[int, Field(description="Lines that failed. They are not tried again.")]
Repeated = Annotated[int, Field(description="Lines that an earlier request stored. They were skipped.")]


class PartCounts(Response):
    lines: Lines
    stored: Stored
    failed: Failed


class PartProgress(PartCounts):
    """Of a part, until an error."""

    repeated: Repeated


class PartLoaded(PartCounts):
    status: Literal["success", "partial", "failed"]
    stream_key: str
    part: int
    repeated: Repeated
    total_time_ms: Milliseconds


class FoundInBot(Response):
    kind: str
    chat_bot_id: UUID | None
    detail: str


class BotVerified(Response):
    """As the result of a job verify."""

    findings: int
    by_kind: dict[str, int]
    first: list[FoundInBot]


class PartImported(PartLoaded):
    status: Literal["success", "partial", "failed", "torn"]  # type: ignore[assignment]
    torn: str | None = Field(description="What is wrong if the export is not whole. What it has is stored.")
    verified: BotVerified | None = Field(description="What verify found then; null with verify=false.")


class Part(PartCounts):
    part: int
    sha256: str = Field(description="Of these lines, each with one line end (LF); in hexadecimal.")
    in_flight: bool = Field(description="Further lines are being written, or were until a moment ago.")
    updated_at: datetime


class StreamState(PartCounts):
    """Sums over all parts, and a page of parts."""

    stream_key: str
    total_parts: int
    parts: list[Part]
    next_cursor: str | None


class LineResult(Response):
    part: int
    line: int = Field(description="Its number in the part, from 1.")
    success: bool
    doc_id: int | None
    result: Result | None
    error: ItemError | None


class StreamResults(Response):
    results: list[LineResult]
    next_cursor: str | None


LINE_SCHEMA: dict[str, Any] = {"type": "string", "description": "NDJSON: in each line a document with its chunks."}
