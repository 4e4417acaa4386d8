"""An LRU cache of vectors."""

from contextvars import ContextVar
from hashlib import blake2b

from app.core.embedding.port import Vectors
from app.utils.lru_cache import LruCache

ENTRY_BYTES = 320
"""Memory of an entry besides the vector's numbers: the array object, the key and their slots in the dictionary."""


cache_account: ContextVar[str] = ContextVar("cache_account", default="")
"""The account of the current request; part of every cache key. Without it, the time of an answer would tell an account
whether another one has stored the same text. Empty for the server's own work and where no API key is required."""


def _size(vector: Vectors) -> int:
    return vector.nbytes + ENTRY_BYTES


class VectorCache(LruCache[bytes, Vectors]):
    """Vectors (dimension,), read-only, of one model by account and text; the least recently used are evicted."""

    def __init__(self, model: str, max_bytes: int) -> None:
        super().__init__(max_bytes, _size)
        self._seed = blake2b(model.encode(), digest_size=16).digest()

    @property
    def enabled(self) -> bool:
        return self._max_bytes > 0

    def key(self, text: str) -> bytes:
        """The key of a text, for this model and the account in ``cache_account``."""
        scoped = f"{cache_account.get()}\0{text}"  # PostgreSQL stores no NUL, so no account's name has one.
        return blake2b(scoped.encode("utf-8", "surrogatepass"), digest_size=16, key=self._seed).digest()

    def put(self, key: bytes, value: Vectors) -> None:
        """Stores a copy: a row of a batch would keep the whole batch in memory."""
        if key in self._entries or _size(value) > self._max_bytes:
            return
        copy = value.copy()
        copy.setflags(write=False)
        super().put(key, copy)
