"""What Milvus Lite's process says beyond Milvus's own protocol: which collections may have lost rows."""

from typing import Final

DISK_FULL: Final = 7
"""Status code of a write refused for want of space; a Milvus server's too (merr.ErrServiceDiskLimitExceeded)."""
QUOTA_EXCEEDED: Final = 9
"""As a Milvus server denies writes past a quota: of memory, of disk."""
WRITES_REFUSED: Final = 70_001
"""Status code of a write to a collection in which one failed for another reason."""
SUSPECT: Final = 70_002
"""Status code of a search in a collection that must be compared first."""

SERVICE: Final = "chat_memory.Lite"
SUSPECTS: Final = "Suspects"
"""Request {"claim": seconds}, answer [[collection, failures, writable, searchable], ...]; JSON."""
TRUST: Final = "Trust"
"""Request {"collection": name, "failures": number, "complete": bool}, answer null."""
