"""What core expects of the stores: the vector index in Milvus, and the record in PostgreSQL.

Stores take the rows of ``app.schemas.rows`` and return rows and results. They change no object of their callers and
import nothing of core but this package. Each port has a plain in-memory version in tests/doubles, and the contract
suite in tests/contract runs the same tests against every implementation.

Each method of a port of the record is one transaction. It raises DatabaseUnavailable when PostgreSQL does not answer in
time. Its outcome is then unknown: it may have been committed.
"""

from app.core.ports.access import ApiKeyPort
from app.core.ports.bots import BotPort
from app.core.ports.documents import DocumentPort, RecentVector, RecentWrites
from app.core.ports.jobs import JobPort
from app.core.ports.listing import ListingPort
from app.core.ports.loads import Claim, LoadPort, Observed
from app.core.ports.operations import (
    BacklogPort,
    Cutover,
    GarbagePort,
    GenerationPort,
    ModelMigrationPort,
    NormalizePort,
    RebuildPort,
    VerifyPort,
)
from app.core.ports.quotas import QuotaPort
from app.core.ports.statistics import StatisticsPort
from app.core.ports.streams import StreamPort
from app.core.ports.sync import SyncPort
from app.core.ports.vector_index import (
    DELETE_KEYS,
    Analyzer,
    ChunkIds,
    Hit,
    KeyRange,
    MarkerPort,
    UnverifiedCollection,
    VectorIndex,
    Vectors,
    by_rank,
)
from app.core.ports.writes import (
    BeginResult,
    FinishResult,
    IdempotencyPort,
    Refusal,
    RenderAnswer,
    Replaced,
    RequestKey,
    SharedVectors,
    StoredAnswer,
    WriteFailure,
    WritePort,
)

__all__ = [
    "DELETE_KEYS",
    "Analyzer",
    "ApiKeyPort",
    "BacklogPort",
    "BeginResult",
    "BotPort",
    "ChunkIds",
    "Claim",
    "Cutover",
    "DocumentPort",
    "FinishResult",
    "GarbagePort",
    "GenerationPort",
    "Hit",
    "IdempotencyPort",
    "JobPort",
    "KeyRange",
    "ListingPort",
    "LoadPort",
    "MarkerPort",
    "ModelMigrationPort",
    "NormalizePort",
    "Observed",
    "QuotaPort",
    "RebuildPort",
    "RecentVector",
    "RecentWrites",
    "Refusal",
    "RenderAnswer",
    "Replaced",
    "RequestKey",
    "SharedVectors",
    "StatisticsPort",
    "StoredAnswer",
    "StreamPort",
    "SyncPort",
    "UnverifiedCollection",
    "VectorIndex",
    "Vectors",
    "VerifyPort",
    "WriteFailure",
    "WritePort",
    "by_rank",
]
