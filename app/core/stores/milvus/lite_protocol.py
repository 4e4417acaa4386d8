"""What the Milvus Lite process adds to Milvus's protocol: status codes, and a service for unverified collections."""

from typing import Final

DISK_FULL: Final = 7
"""Status code of a write that failed because the disk is full. A Milvus server uses the same code
(merr.ErrServiceDiskLimitExceeded)."""
QUOTA_EXCEEDED: Final = 9
"""Status code of a Milvus server that denies writes because a quota is used up, of memory or of disk."""
WRITES_REFUSED: Final = 70_001
"""Status code of a write to a collection in which an earlier write failed for another reason."""
UNVERIFIED: Final = 70_002
"""Status code of a search in a collection that must be compared with PostgreSQL first."""

SERVICE: Final = "chat_memory.Lite"
"""Name of the gRPC service. Requests and responses are JSON."""
UNVERIFIED_COLLECTIONS: Final = "UnverifiedCollections"
"""Request {"claim": seconds}, response [[collection, failures, writable, searchable], ...]."""
FINISH_VERIFICATION: Final = "FinishVerification"
"""Request {"collection": name, "failures": number, "complete": bool}, response null."""
