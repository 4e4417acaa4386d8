"""Rows about bulk loads: a stream of a bot has parts, and each part has lines."""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID


class PartName(NamedTuple):
    """A part of a stream. Its client gives both names."""

    bot_id: UUID
    stream_key: str
    part: int


class LinesKey(NamedTuple):
    """Lines of a part that one transaction stores: those after line ``after`` up to ``last_line``.

    ``sha256``: of all lines of the part up to ``last_line``, with their line ends. ``generation``: the saga that
    represents these lines while they are written; 0 before T1.
    """

    name: PartName
    after: int
    last_line: int
    sha256: bytes
    generation: int = 0


class LineResults(NamedTuple):
    """Results of some lines. ``results``: a JSON object for each line that is not blank, each with a line end.

    ``failed``: how many of them are errors; ``stored``: how many are not.
    """

    stored: int
    failed: int
    results: bytes


class PartState(NamedTuple):
    """What is stored of a part: the results of its first ``lines``, whose SHA-256 is ``sha256``.

    ``in_flight``: the lines that follow are being written, or were when their process died a moment ago.
    """

    part: int
    lines: int
    sha256: bytes
    stored: int
    failed: int
    in_flight: bool
    updated_at: datetime


class StreamTotals(NamedTuple):
    """Sums over the parts of a stream."""

    parts: int
    lines: int
    stored: int
    failed: int


class ResultPlace(NamedTuple):
    """A line of a part, after which a page of results begins."""

    part: int
    line: int


class StoredResults(NamedTuple):
    """``LineResults.results`` of one transaction. ``place``: its last line."""

    place: ResultPlace
    results: bytes
