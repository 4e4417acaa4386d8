"""All errors that a client can see.

The core raises them, and one handler in ``app.api.errors`` renders them as RFC 9457 problem details. An error has its
HTTP status, a stable ``code`` for programs and a ``detail`` for people. ``detail`` contains nothing of a store's own
message, since that can contain another account's data.
"""

from collections.abc import Collection, Sequence
from copy import copy
from dataclasses import dataclass
from typing import ClassVar, Self
from uuid import UUID


@dataclass(frozen=True)
class ErrorLocation:
    """Where a request is not valid (``loc``, such as ``body.chunks.0.text``) and why (``msg``)."""

    loc: str
    msg: str


class AppError(Exception):
    """Base class of all errors that a client can see."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"
    challenge: str | None = None
    """The value of the header WWW-Authenticate."""
    etag: str | None = None
    """The value of the header ETag."""

    def __init__(self, detail: str, *, locations: Sequence[ErrorLocation] = (), retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.locations = tuple(locations)
        self.retry_after = retry_after
        self.more: dict[str, object] = {}
        """Further members of the problem document."""

    def prefixed(self, location: str) -> "AppError":
        """A copy of the error whose detail begins with ``location``."""
        error = copy(self)
        error.detail = f"{location}: {self.detail}"
        error.args = (error.detail,)
        return error


class InvalidInput(AppError):
    status, code, title = 422, "invalid_input", "Invalid input"

    @classmethod
    def at(cls, location: str, reason: str) -> Self:
        """The value at ``location``, such as ``body.limit``, is not valid; ``reason`` goes on with the sentence."""
        return cls(f"{location}: {reason}", locations=[ErrorLocation(location, reason)])


class MalformedBody(AppError):
    status, code, title = 400, "malformed_body", "The body could not be read"


class NotServed(AppError):
    """A part of another API that this server does not have."""

    status, code, title = 400, "not_served", "Not served here"


class UnsupportedMode(InvalidInput):
    code, title = "unsupported_mode", "Search mode not supported by this collection"


class NotCalibrated(InvalidInput):
    code, title = "not_calibrated", "Confidence is not calibrated for this model"


class IdempotencyKeyReused(InvalidInput):
    code, title = "idempotency_key_reused", "Idempotency-Key belongs to another request"


class TextTooLong(InvalidInput):
    code, title = "text_too_long", "Text is too long for the embedding model"


class TextRefused(InvalidInput):
    code, title = "text_refused", "The embedding provider rejected this text"


class VectorsDiffer(InvalidInput):
    code, title = "vectors_differ", "Vectors of an import are not those of its texts"


class MetadataTooLarge(InvalidInput):
    code, title = "metadata_too_large", "Metadata would become too large"


class TooManyDocuments(InvalidInput):
    code, title = "too_many_documents", "The filter matches more documents than allowed"


class Unauthorized(AppError):
    """No API key, or one that is not valid. The challenges are those of RFC 6750."""

    status, code, title = 401, "unauthorized", "A valid API key is required"
    challenge = 'Bearer realm="chat-memory", error="invalid_token"'


class KeyMissing(Unauthorized):
    challenge = 'Bearer realm="chat-memory"'


class Forbidden(AppError):
    status, code, title = 403, "forbidden", "The API key's scope does not cover this call"

    def __init__(self, detail: str, *, scope: str) -> None:
        super().__init__(detail)
        self.challenge = f'Bearer realm="chat-memory", error="insufficient_scope", scope="{scope}"'


class QuotaExceeded(AppError):
    """``quota``: bots, documents or chunks. The account has ``used`` of ``limit``; ``wanted`` more were requested."""

    status, code, title = 403, "quota_exceeded", "The account's quota is used up"

    def __init__(self, quota: str, used: int, limit: int, wanted: int) -> None:
        super().__init__(f"The account may have {limit} {quota} and has {used}: {wanted} more do not fit.")
        self.more = {"quota": {"name": quota, "used": used, "limit": limit, "requested": wanted}}


class BodyTooLarge(AppError):
    status, code, title = 413, "body_too_large", "Body is too large"


class BodyTooSlow(AppError):
    status, code, title = 408, "body_too_slow", "Body did not arrive in time"


class EncodingUnsupported(AppError):
    status, code, title = 415, "encoding_unsupported", "Compressed bodies are not supported"


class RateLimited(AppError):
    status, code, title = 429, "rate_limited", "Too many requests"


class AnswerTooLarge(AppError):
    status, code, title = 422, "answer_too_large", "Response would contain too much text"


class TooManyWrites(AppError):
    status, code, title = 429, "too_many_writes", "Too many concurrent writes"
    calls = "writes"


class TooManyReads(AppError):
    status, code, title = 429, "too_many_reads", "Too many concurrent reads"
    calls = "reads"


class TooManyJobs(AppError):
    status, code, title = 429, "too_many_jobs", "Too many running jobs"


class TooManyStreams(TooManyWrites):
    code, title = "too_many_streams", "Too many concurrent streams"
    calls = "streams"


class HostNotAllowed(AppError):
    status, code, title = 403, "host_not_allowed", "Host is not allowed"


class OriginNotAllowed(AppError):
    status, code, title = 403, "origin_not_allowed", "Origin is not allowed"


class BotNotFound(AppError):
    status, code, title = 404, "bot_not_found", "No such bot"
    DETAIL = "There is no bot with this chat_bot_id."

    def __init__(self, detail: str = DETAIL, *, locations: Sequence[ErrorLocation] = ()) -> None:
        super().__init__(detail, locations=locations)


class DocumentNotFound(AppError):
    status, code, title = 404, "document_not_found", "No such document"


class ChunkNotFound(AppError):
    status, code, title = 404, "chunk_not_found", "No such chunk"


class SyncNotFound(AppError):
    status, code, title = 404, "sync_not_found", "No such synchronization"


class KeyNotFound(AppError):
    status, code, title = 404, "key_not_found", "No such API key"


class JobNotFound(AppError):
    status, code, title = 404, "job_not_found", "No such job"


class StreamNotFound(AppError):
    status, code, title = 404, "stream_not_found", "No such stream"


class ModelNotFound(AppError):
    status, code, title = 404, "model_not_found", "Model is not available on this server"


class Conflict(AppError):
    status, code, title = 409, "conflict", "Conflict"


class BotExists(Conflict):
    code, title = "bot_exists", "Bot exists with different values"


class CollectionNameTaken(Conflict):
    code, title = "collection_name_taken", "Collection name is taken"


class DocumentChanged(Conflict):
    code, title = "document_changed", "Document was changed by another request"


class PreconditionFailed(AppError):
    """``etag``: of the document as it is; None if there is none."""

    status, code, title = 412, "precondition_failed", "Document is not as the request expects"

    def __init__(self, detail: str, *, etag: str | None) -> None:
        super().__init__(detail)
        self.etag = etag


class LastChunk(Conflict):
    code, title = "last_chunk", "The document has no other chunk"


class ExternalIdTaken(Conflict):
    code, title = "external_id_taken", "Another document has this external_id"


class ExternalIdInFlight(Conflict):
    code, title = "external_id_in_flight", "Another request is writing this document"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, retry_after=1)


class JobRunning(Conflict):
    code, title = "job_running", "A job of this kind is running for this bot"


class SyncInProgress(Conflict):
    code, title = "sync_in_progress", "Bot is being synchronized by another session"


class SyncIncomplete(Conflict):
    code, title = "sync_incomplete", "Synchronization has a document that was not valid"


class RequestInFlight(Conflict):
    code, title = "request_in_flight", "A request with this Idempotency-Key is in progress"

    def __init__(
        self, detail: str = "A request with this Idempotency-Key is still in progress, or was cut off a moment ago."
    ) -> None:
        super().__init__(detail, retry_after=1)


class PartInProgress(Conflict):
    code, title = "part_in_progress", "This part of the stream is in progress"

    def __init__(self) -> None:
        super().__init__("Another request loads this part, or was cut off a moment ago.", retry_after=1)


class PartDiffers(Conflict):
    code, title = "part_differs", "This part of the stream had other lines before"


class ModelMismatch(Conflict):
    code, title = "embedding_model_mismatch", "Bot belongs to another embedding model"


class MigrationInProgress(Conflict):
    code, title = "reembed_in_progress", "Bot is being re-embedded with another model"


class ExportOvertaken(Conflict):
    code, title = "export_overtaken", "Bot was deleted or moved during its export"


class CollectionForeign(Conflict):
    code, title = "collection_foreign", "Milvus collection belongs to another application"


class Unavailable(AppError):
    """Something that this server needs is unavailable or overloaded. A later attempt may succeed."""

    status, code, title = 503, "unavailable", "Temporarily unavailable"

    def __init__(self, detail: str, *, locations: Sequence[ErrorLocation] = (), retry_after: int = 2) -> None:
        super().__init__(detail, locations=locations, retry_after=retry_after)


class DatabaseUnavailable(Unavailable):
    code, title = "database_unavailable", "PostgreSQL is unavailable"


class DatabaseRightsMissing(Unavailable):
    """A further attempt fails as well until an operator has granted the rights."""

    code, title = "database_rights_missing", "The server's PostgreSQL role lacks rights"

    def __init__(self, detail: str, *, locations: Sequence[ErrorLocation] = (), retry_after: int = 60) -> None:
        super().__init__(detail, locations=locations, retry_after=retry_after)


class VectorIndexUnavailable(Unavailable):
    code, title = "vector_index_unavailable", "Milvus is unavailable"


class StorageFull(Unavailable):
    """A store's disk is full. Nothing was stored; reads still work."""

    code, title = "storage_full", "No disk space left"

    def __init__(self, detail: str, *, locations: Sequence[ErrorLocation] = (), retry_after: int = 10) -> None:
        super().__init__(detail, locations=locations, retry_after=retry_after)


class DatabaseFull(StorageFull, DatabaseUnavailable): ...


class VectorIndexFull(StorageFull, VectorIndexUnavailable): ...


class CollectionUnverified(VectorIndexUnavailable):
    """The bot's collection may have lost rows. It is compared with PostgreSQL before it is searched again."""

    code, title = "index_rebuilding", "The bot's index is being checked"


class CollectionReleased(VectorIndexUnavailable):
    """Milvus has the collection, but not in memory: it takes writes, and no reads. ``LoadingIndex`` loads it."""

    def __init__(self) -> None:
        super().__init__("The bot's vectors are not in Milvus's memory. Try again in a moment.")


class CollectionLoading(Unavailable):
    """The bot was idle, and Milvus is loading its vectors. ``retry_after``: the estimated seconds until it has."""

    code, title = "collection_loading", "The bot is being loaded"

    def __init__(self, retry_after: int) -> None:
        detail = f"The bot was not in use and is being loaded (a cold start). Try again in {retry_after} s."
        super().__init__(detail, retry_after=retry_after)


class IndexRebuilding(Unavailable):
    """Vectors of this bot are missing in Milvus. ``progress``: (indexed chunks, all chunks of the bot)."""

    code, title = "index_rebuilding", "The bot's index is being rebuilt"

    def __init__(self, detail: str, *, progress: tuple[int, int]) -> None:
        super().__init__(detail, retry_after=10)
        self.more = {"progress": {"chunks_indexed": progress[0], "chunks_total": progress[1]}}


class EmbedderUnavailable(Unavailable):
    code, title = "embedder_unavailable", "The embedder is unavailable"


class RerankerUnavailable(Unavailable):
    code, title = "reranker_unavailable", "The reranker is unavailable"


class LeaseLost(Unavailable):
    """This write took longer than its lease, and recovery undid it."""

    code, title = "lease_lost", "The write was undone"


class CollectionMoved(Unavailable):
    """The bot has another collection than when its row was read, so the row has to be read again.

    Callers see this only if it keeps happening.
    """

    def __init__(
        self, detail: str = "The bot moved to another embedding model while this request ran. Try again."
    ) -> None:
        super().__init__(detail)


class InstallationForeign(Unavailable):
    """Milvus belongs to another database. ``lines`` tells the operator which one it is and what to do."""

    code, title = "installation_foreign", "Milvus belongs to another installation"

    def __init__(self, lines: str) -> None:
        super().__init__(
            "Another installation uses this server's Milvus. The server's log says what to do.", retry_after=60
        )
        self.lines = lines


class GenerationsUsedUp(Unavailable):
    code, title = "generations_used_up", "No generation number is left"


class ServerStopping(Unavailable):
    code, title = "server_stopping", "The server is stopping"


class DeadlineExceeded(Unavailable):
    code, title = "deadline_exceeded", "The request took too long"


class Overloaded(Unavailable):
    code, title = "overloaded", "Too many buffered bodies"


class EmbeddingInvalid(AppError):
    """The embedder returned no usable vector for this text."""

    status, code, title = 502, "embedding_invalid", "The embedder returned an unusable vector"


class RerankInvalid(AppError):
    """The reranker returned no usable score for some passage."""

    status, code, title = 502, "rerank_invalid", "The reranker returned no usable scores"


class CollectionMissing(Exception):
    """Milvus has no such collection. The core creates it again or reports that the bot was deleted. Internal."""


class NoGeneration(Exception):
    """The reserved block of generations is used up, or no longer belongs to this database. Internal."""


class ExternalIdsHeld(Exception):
    """Other writes hold these external ids, or have written them since they were looked up. Internal.

    ``ids``: (bot_id, external_id).
    """

    def __init__(self, ids: Collection[tuple[UUID, str]]) -> None:
        super().__init__(f"{len(ids)} external ids")
        self.ids = frozenset(ids)


class StartupError(Exception):
    """The server cannot start. The message says why and what to do, in a line or two."""
