"""Every error that a caller may see.

Core raises these; one handler in ``app.api.errors`` renders them as RFC 9457 problem details. An error
carries its HTTP status, a stable ``code`` for programs and a ``detail`` for people. Nothing of a store's
own message goes into ``detail``: it may echo somebody's data.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class ErrorLocation:
    """One spot of a request that is wrong: where (``body.chunks.0.text``) and why."""

    loc: str
    msg: str


class AppError(Exception):
    """Base of all errors with a meaning for the caller."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"
    challenge: str | None = None
    """For the header WWW-Authenticate."""

    def __init__(self, detail: str, *, places: Sequence[ErrorLocation] = (), retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.places = tuple(places)
        self.retry_after = retry_after
        self.more: dict[str, object] = {}
        """Members of the problem document that only this error has."""

    def at(self, place: str) -> "AppError":
        """The same error, its detail beginning with the place that it is about."""
        error = copy(self)
        error.detail = f"{place}: {self.detail}"
        error.args = (error.detail,)
        return error


class InvalidInput(AppError):
    status, code, title = 422, "invalid_input", "Invalid input"


class MalformedBody(AppError):
    status, code, title = 400, "malformed_body", "The body could not be read"


class UnsupportedMode(InvalidInput):
    code, title = "unsupported_mode", "This Milvus cannot search so"


class IdempotencyKeyReused(InvalidInput):
    code, title = "idempotency_key_reused", "This key belongs to another request"


class TextTooLong(InvalidInput):
    code, title = "text_too_long", "Text is longer than the embedding model reads"


class TextRefused(InvalidInput):
    code, title = "text_refused", "The embedding provider refuses this text"


class MetadataTooLarge(InvalidInput):
    code, title = "metadata_too_large", "Metadata would grow too large"


class Unauthorized(AppError):
    """No key, or one that is not let in; RFC 6750 has the challenges."""

    status, code, title = 401, "unauthorized", "A valid API key is needed"
    challenge = 'Bearer realm="chat-memory", error="invalid_token"'


class KeyMissing(Unauthorized):
    challenge = 'Bearer realm="chat-memory"'


class Forbidden(AppError):
    status, code, title = 403, "forbidden", "The API key's scope does not cover this call"

    def __init__(self, detail: str, *, scope: str) -> None:
        super().__init__(detail)
        self.challenge = f'Bearer realm="chat-memory", error="insufficient_scope", scope="{scope}"'


class BodyTooLarge(AppError):
    status, code, title = 413, "body_too_large", "Body is too large"


class BodyTooSlow(AppError):
    status, code, title = 408, "body_too_slow", "Body did not arrive in time"


class EncodingUnsupported(AppError):
    status, code, title = 415, "encoding_unsupported", "Compressed bodies are not read"


class RateLimited(AppError):
    status, code, title = 429, "rate_limited", "Too many requests"


class AnswerTooLarge(AppError):
    status, code, title = 422, "answer_too_large", "Answer would hold too much text"


class TooManyWrites(AppError):
    status, code, title = 429, "too_many_writes", "Too many writes at a time"
    calls = "writes"


class TooManyReads(AppError):
    status, code, title = 429, "too_many_reads", "Too many reads at a time"
    calls = "reads"


class HostNotAllowed(AppError):
    status, code, title = 403, "host_not_allowed", "Server is not called by this name"


class OriginNotAllowed(AppError):
    status, code, title = 403, "origin_not_allowed", "Pages of this origin may not call"


class BotNotFound(AppError):
    status, code, title = 404, "bot_not_found", "No such bot"


class DocumentNotFound(AppError):
    status, code, title = 404, "document_not_found", "No such document"


class ModelNotFound(AppError):
    status, code, title = 404, "model_not_found", "This server runs another embedding model"


class Conflict(AppError):
    status, code, title = 409, "conflict", "Conflict"


class BotExists(Conflict):
    code, title = "bot_exists", "Bot exists with other values"


class CollectionNameTaken(Conflict):
    code, title = "collection_name_taken", "Collection name is taken"


class DocumentChanged(Conflict):
    code, title = "document_changed", "Document was changed by another request"


class RequestInFlight(Conflict):
    code, title = "request_in_flight", "The first request with this key is at work"

    def __init__(
        self, detail: str = "A request with this Idempotency-Key is still in progress, or was cut off a moment ago."
    ) -> None:
        super().__init__(detail, retry_after=1)


class ModelMismatch(Conflict):
    code, title = "embedding_model_mismatch", "Bot belongs to another embedding model"


class MigrationInProgress(Conflict):
    code, title = "reembed_in_progress", "The bot is being moved to another model"


class CollectionForeign(Conflict):
    code, title = "collection_foreign", "Milvus collection of that name is not ours"


class Unavailable(AppError):
    """Something this server needs is away or too busy. Trying again later may succeed."""

    status, code, title = 503, "unavailable", "Temporarily unavailable"

    def __init__(self, detail: str, *, places: Sequence[ErrorLocation] = (), retry_after: int = 2) -> None:
        super().__init__(detail, places=places, retry_after=retry_after)


class DatabaseUnavailable(Unavailable):
    code, title = "database_unavailable", "PostgreSQL is away"


class DatabaseRightsMissing(Unavailable):
    """Until an operator has granted them, trying again does not help."""

    code, title = "database_rights_missing", "PostgreSQL does not allow this to the server's role"

    def __init__(self, detail: str, *, places: Sequence[ErrorLocation] = (), retry_after: int = 60) -> None:
        super().__init__(detail, places=places, retry_after=retry_after)


class VectorIndexUnavailable(Unavailable):
    code, title = "vector_index_unavailable", "Milvus is away"


class StorageFull(Unavailable):
    """A store's disk has no space left. Nothing was stored; reads go on."""

    code, title = "storage_full", "No space left to store this"

    def __init__(self, detail: str, *, places: Sequence[ErrorLocation] = (), retry_after: int = 10) -> None:
        super().__init__(detail, places=places, retry_after=retry_after)


class DatabaseFull(StorageFull, DatabaseUnavailable): ...


class VectorIndexFull(StorageFull, VectorIndexUnavailable): ...


class CollectionUnverified(VectorIndexUnavailable):
    """The bot's collection may have lost rows, and is compared with PostgreSQL before it is searched again."""

    code, title = "index_rebuilding", "The bot's index is being checked"


class IndexRebuilding(Unavailable):
    """Vectors of this bot are missing in Milvus. ``progress``: (chunks that are indexed, chunks of the bot)."""

    code, title = "index_rebuilding", "The bot's index is being rebuilt"

    def __init__(self, detail: str, *, progress: tuple[int, int]) -> None:
        super().__init__(detail, retry_after=10)
        self.more = {"progress": {"chunks_indexed": progress[0], "chunks_total": progress[1]}}


class EmbedderUnavailable(Unavailable):
    code, title = "embedder_unavailable", "The embedder is away"


class RerankerUnavailable(Unavailable):
    code, title = "reranker_unavailable", "The reranker is unavailable"


class LeaseLost(Unavailable):
    """This write took longer than its lease and was undone by recovery."""

    code, title = "lease_lost", "The write was undone, try again"


class CollectionMoved(Unavailable):
    """The bot has another collection than when its row was read, so the row has to be read again.

    Callers see this only if it keeps happening.
    """

    def __init__(
        self, detail: str = "The bot moved to another embedding model while this request ran. Try again."
    ) -> None:
        super().__init__(detail)


class InstallationForeign(Unavailable):
    """Milvus belongs to another database. ``lines`` is for the operator: whose it is, and what to do."""

    code, title = "installation_foreign", "Milvus belongs to another installation"

    def __init__(self, lines: str) -> None:
        super().__init__("Another installation uses this server's Milvus. Its log says what to do.", retry_after=60)
        self.lines = lines


class GenerationsUsedUp(Unavailable):
    code, title = "generations_used_up", "No number is left for another write"


class DeadlineExceeded(Unavailable):
    code, title = "deadline_exceeded", "The request took too long"


class Overloaded(Unavailable):
    code, title = "overloaded", "The server holds too many bodies"


class EmbeddingInvalid(AppError):
    """The embedder answered, but not with a usable vector for this text."""

    status, code, title = 502, "embedding_invalid", "The embedder returned an unusable vector"


class RerankInvalid(AppError):
    """The reranker answered, but not with a usable score for each passage."""

    status, code, title = 502, "rerank_invalid", "The reranker returned no usable scores"


class CollectionMissing(Exception):
    """Milvus has no such collection. Core makes it anew or reports the bot as gone; callers never see this."""


class NoGeneration(Exception):
    """The block of generations is used up, or is not this database's as it is now. Callers never see this."""


class StartupError(Exception):
    """The server cannot start; its message says what to do in a line or two."""
