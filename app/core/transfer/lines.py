"""Bytes to lines: in pieces as they arrive, in bounded memory."""

import zlib
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from typing import Final, Protocol

from app.utils.errors import BodyTooLarge, MalformedBody

INFLATED_PIECE: Final = 256 << 10
MAX_RATIO: Final = 200
"""Documents, even with many repetitions, compress to a hundredth at most; a gzip bomb to a thousandth."""
RATIO_FREE_BYTES: Final = 1 << 20
"""So much may be inflated whatever the ratio."""


class Digest(Protocol):
    """A hash of ``hashlib``."""

    def hexdigest(self) -> str: ...


class LineSplitter:
    """Splits pieces into lines at LF. ``number`` and ``sha256`` are those of the lines that were returned so far: their
    count, and the hash of their bytes, each line with one LF. ``before``: the hash of those before the last one."""

    def __init__(self, max_bytes: int) -> None:
        self.number = 0
        self.sha256 = sha256()
        self.before = self._ended_hash = self.sha256.copy()
        self._max_bytes = max_bytes
        self._begun = bytearray()
        self._size = 0

    def feed(self, piece: bytes) -> Iterator[bytes | None]:
        """The lines that end in this piece, without their LF; None for one that is longer than ``max_bytes``."""
        start = 0
        while (end := piece.find(b"\n", start)) >= 0:
            self._keep(piece[start:end])
            yield self._ended()
            start = end + 1
        self._keep(piece[start:])

    def rest(self) -> Iterator[bytes | None]:
        """The last line, if it has no LF."""
        if self._size:
            yield self._ended()

    def _keep(self, fragment: bytes) -> None:
        self._size += len(fragment)
        self.sha256.update(fragment)
        if self._size <= self._max_bytes:
            self._begun += fragment
        else:
            self._begun.clear()

    def _ended(self) -> bytes | None:
        line = bytes(self._begun) if self._size <= self._max_bytes else None
        self._begun.clear()
        self._size = 0
        self.sha256.update(b"\n")
        self.before, self._ended_hash = self._ended_hash, self.sha256.copy()
        self.number += 1
        return line


async def inflated(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The content of gzip, in pieces of at most INFLATED_PIECE bytes; an empty piece stays one.

    Raises MalformedBody if it is not gzip or ends early, BodyTooLarge if it inflates to more than MAX_RATIO times its
    size.
    """
    received = sent = 0
    member = None
    async for piece in pieces:
        if not piece:
            yield b""
        received += len(piece)
        while piece:
            member = member or zlib.decompressobj(16 + zlib.MAX_WBITS)
            try:
                content = member.decompress(piece, INFLATED_PIECE)
            except zlib.error as exc:
                raise MalformedBody("The body is not valid gzip.") from exc
            sent += len(content)
            if sent > max(RATIO_FREE_BYTES, MAX_RATIO * received):
                raise BodyTooLarge(f"The body inflates to more than {MAX_RATIO} times its size.")
            if content:
                yield content
            if member.eof:  # Another member may follow, as in files that were put together with cat.
                piece, member = member.unused_data, None
            else:
                piece = member.unconsumed_tail
    if member is not None:
        raise MalformedBody("The body ends before its gzip does.")
