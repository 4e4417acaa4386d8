"""Vectors of texts that were embedded before, bounded in bytes, the least recently used going first."""

from collections import OrderedDict
from contextvars import ContextVar
from hashlib import blake2b

from app.core.embedding.port import Vectors

ENTRY_BYTES = 320
"""What an entry takes beside its numbers: the array, the key and their places in the dictionary."""


cache_account: ContextVar[str] = ContextVar("cache_account", default="")
"""The account of the request's key, set before a request is admitted. What is found at once was embedded for the same
account: how long an answer takes must not tell one account what another has stored. Empty where nobody is asked for a
key, and for the server's own work."""


class VectorCache:
    """Of one model, by the hash of account and text. ``hits`` and ``misses`` are counted from the start."""

    def __init__(self, model: str, max_bytes: int) -> None:
        self._seed = blake2b(model.encode(), digest_size=16).digest()
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, Vectors] = OrderedDict()
        self.bytes = 0
        self.hits = 0
        self.misses = 0

    @property
    def keeps(self) -> bool:
        return self._max_bytes > 0

    def key(self, text: str) -> bytes:
        """Names a text under this model, for the account in ``cache_account``."""
        named = f"{cache_account.get()}\0{text}"  # No account's name holds a NUL: PostgreSQL stores none.
        return blake2b(named.encode("utf-8", "surrogatepass"), digest_size=16, key=self._seed).digest()

    def get(self, key: bytes) -> Vectors | None:
        """The vector (dimension,), not to be written to."""
        vector = self._entries.get(key)
        if vector is None:
            self.misses += 1
        else:
            self.hits += 1
            self._entries.move_to_end(key)
        return vector

    def put(self, key: bytes, vector: Vectors) -> None:
        """Keeps a copy: a row of a batch would keep the batch."""
        if key in self._entries or vector.nbytes + ENTRY_BYTES > self._max_bytes:
            return
        kept = vector.copy()
        kept.setflags(write=False)
        self._entries[key] = kept
        self.bytes += kept.nbytes + ENTRY_BYTES
        while self.bytes > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.bytes -= oldest.nbytes + ENTRY_BYTES
