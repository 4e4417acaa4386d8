"""Versions of a document, and the conditions on them under which a request is carried out (RFC 9110, section 13)."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from app.utils.errors import PreconditionFailed

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
ANY: Final = "*"
"""In the place of an ETag: every version."""


class DocumentVersion(NamedTuple):
    """Changes with everything that a read of the document shows, and is never the same again.

    Each write of chunks has a generation of its own, and each statement that changes a row of ``documents`` makes its
    ``updated_at`` later, whatever the clock says.
    """

    generation: int
    updated_at: datetime

    @property
    def etag(self) -> str:
        """The value of the header ETag, with its quotes."""
        return f'"{self.generation:x}-{(self.updated_at - EPOCH) // timedelta(microseconds=1):x}"'


@dataclass(frozen=True, slots=True)
class Precondition:
    """``if_match`` and ``if_none_match``: ETags of the headers with these names, or ANY; None without the header."""

    if_match: frozenset[str] | None = None
    if_none_match: frozenset[str] | None = None

    def check(self, current: DocumentVersion | None) -> None:
        """Before a change. ``current``: the document as it is now; None if there is none. Raises PreconditionFailed."""
        self.check_read(current)
        if self.names(current):
            raise _failed(current, "The document exists, in a version that If-None-Match excludes.")

    def check_read(self, current: DocumentVersion | None) -> None:
        """Before a read, in which If-None-Match is no condition. Raises PreconditionFailed."""
        if self.if_match is not None and not _has(self.if_match, current):
            changed = "The document has another version than those of If-Match: read it again."
            raise _failed(current, changed if current else "There is no document that If-Match could name.")

    def names(self, current: DocumentVersion | None) -> bool:
        """Whether If-None-Match names this version: then the client of a read has it already."""
        return self.if_none_match is not None and _has(self.if_none_match, current)


def _has(etags: frozenset[str], current: DocumentVersion | None) -> bool:
    return current is not None and (ANY in etags or current.etag in etags)


def _failed(current: DocumentVersion | None, detail: str) -> PreconditionFailed:
    return PreconditionFailed(detail, etag=current.etag if current else None)
