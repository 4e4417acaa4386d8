"""An LRU cache of vectors, bounded in bytes."""

from collections import OrderedDict
from contextvars import ContextVar
from hashlib import blake2b

from app.core.embedding.port import Vectors

ENTRY_BYTES = 320
"""Memory of an entry besides the vector's numbers: the array object, the key and their slots in the dictionary."""


cache_account: ContextVar[str] = ContextVar("cache_account", default="")
"""The account of the current request; part of every cache key. Without it, the time of an answer would tell an account
whether another one has stored the same text. Empty for the server's own work and where no API key is required."""


class VectorCache:
    """Vectors of one model by account and text; the least recently used are evicted."""

    def __init__(self, model: str, max_bytes: int) -> None:
        self._seed = blake2b(model.encode(), digest_size=16).digest()
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, Vectors] = OrderedDict()
        self.bytes = 0

    @property
    def enabled(self) -> bool:
        return self._max_bytes > 0

    def key(self, text: str) -> bytes:
        """The key of a text, for this model and the account in ``cache_account``."""
        scoped = f"{cache_account.get()}\0{text}"  # PostgreSQL stores no NUL, so no account's name has one.
        return blake2b(scoped.encode("utf-8", "surrogatepass"), digest_size=16, key=self._seed).digest()

    def get(self, key: bytes) -> Vectors | None:
        """The vector (dimension,), read-only, or None."""
        vector = self._entries.get(key)
        if vector is not None:
            self._entries.move_to_end(key)
        return vector

    def put(self, key: bytes, vector: Vectors) -> None:
        """Stores a copy: a row of a batch would keep the whole batch in memory."""
        if key in self._entries or vector.nbytes + ENTRY_BYTES > self._max_bytes:
            return
        copy = vector.copy()
        copy.setflags(write=False)
        self._entries[key] = copy
        self.bytes += copy.nbytes + ENTRY_BYTES
        while self.bytes > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.bytes -= oldest.nbytes + ENTRY_BYTES
