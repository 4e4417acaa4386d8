"""An LRU cache that is bounded in bytes."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

ENTRY_BYTES = 400
"""Memory of an entry besides what its caller counts: key, slots and objects around the value."""


class LruCache(Generic[K, V]):
    """The values that were used last, of at most ``max_bytes`` together."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self.bytes = 0

    def get(self, key: K) -> V | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: K, value: V, size: int) -> None:
        """``size``: bytes of the value."""
        _, old = self._entries.pop(key, (None, 0))
        self._entries[key] = (value, size + ENTRY_BYTES)
        self.bytes += size + ENTRY_BYTES - old
        while self.bytes > self._max_bytes:
            _, (_, freed) = self._entries.popitem(last=False)
            self.bytes -= freed
