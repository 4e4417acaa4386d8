"""All settings, read once from the environment and ``.env``, then passed in."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.utils.errors import StartupError
from app.utils.uris import checked_uri

ENV_FILE = ".env"

OpenAILike = Literal[
    "openai", "upstage", "voyage", "cohere", "jina", "gemini", "nvidia", "clova", "tei", "vllm", "ollama"
]
OPENAI_LIKE: tuple[str, ...] = get_args(OpenAILike)
"""Providers over the network; docs/EMBEDDINGS.md has what each is asked for."""
OWN_SERVERS = ("tei", "vllm", "ollama")
"""Those that one runs oneself, commonly without keys, and for a model of one's choice."""
PAID = tuple(name for name in OPENAI_LIKE if name not in OWN_SERVERS)
MODEL_NAME = rf"^(use-multilingual|bge-m3|sentence-bert|{'|'.join(OPENAI_LIKE)})(:[^#]+)?(#[1-9]\d{{0,4}})?$"
"""How EMBEDDING_PREVIOUS_MODEL and ``reembed --to`` name a model."""


def _rate(text: str) -> str:
    from limits import parse_many  # Loaded only where it is used.

    try:
        parse_many(text)
    except ValueError:
        raise ValueError("should be such as 50/second;1000/minute") from None
    return text


def _host(text: str) -> str:
    if "@" in text or "://" in text:
        raise ValueError(
            "should be a host's name, its address or a socket's folder: role, password and database have settings of "
            "their own"
        )
    return text


class Settings(BaseSettings):
    """Each field is an environment variable of the same name in capitals; ``.env.example`` explains them."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE, env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    host: str = Field("127.0.0.1", description="Address scripts/server listens on.")
    port: int = Field(8000, ge=1, le=65535, description="Port scripts/server listens on.")
    data_dir: Path = Field(Path("data"), description="Folder of the embedded stores.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is logged.")
    log_format: Literal["text", "json"] = Field("text", description="Lines for people, or JSON objects.")
    auth_disabled: bool = Field(False, description="Ask nobody for a key: whoever reaches the port may do all.")
    allowed_hosts: str | None = Field(
        None, description="Names to be called by, beside localhost, with commas between them; * allows any."
    )
    api_key_cache_ttl: float = Field(5.0, ge=0, le=300, description="A revoked key works on at most so long.")
    health_open: bool = Field(True, description="Show the state of each dependency without a key.")
    docs: Literal["open", "key", "off"] = Field("open", description="/docs, /redoc and /openapi.json.")
    otel_exporter_otlp_endpoint: str | None = Field(
        None, pattern="^https?://", description="Collector of traces, OTLP over HTTP."
    )
    drain_seconds: float = Field(1.0, ge=0, description="After SIGTERM serve on so long, not ready any more.")
    graceful_shutdown_timeout: int = Field(30, ge=1, description="Seconds then for what is in flight.")

    postgres_host: Annotated[str, AfterValidator(_host)] | None = Field(
        None, description="PostgreSQL server; unset starts the embedded one."
    )
    postgres_port: int = Field(5432, ge=1, le=65535, description="Its port.")
    postgres_db_name: str = Field("rag_db_chatty", description="Database.")
    postgres_user: str = Field("postgres", description="Role.")
    postgres_password: SecretStr | None = Field(None, description="The role's password.")
    postgres_sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = Field(
        "prefer", description="TLS, as libpq's sslmode."
    )
    postgres_sslrootcert: Path | None = Field(None, description="The server's CA, PEM.")
    postgres_sslcert: Path | None = Field(None, description="This server's certificate for PostgreSQL, PEM.")
    postgres_sslkey: Path | None = Field(None, description="Its key, PEM, without a password.")
    postgres_pooler: Literal["auto", "transaction"] = Field(
        "auto", description="Whether a pooler such as PgBouncer stands before it: found by itself, or said so."
    )
    postgres_pool_min: int = Field(2, ge=0, description="Connections kept open by each process.")
    postgres_pool_max: int = Field(16, ge=1, description="Most connections of each process.")
    postgres_timeout: float = Field(10.0, gt=0, description="Seconds a connection or statement may take.")
    postgres_statement_timeout: float = Field(
        15.0, ge=0, description="After so many seconds PostgreSQL itself ends a statement; 0: never."
    )
    postgres_lock_timeout: float = Field(5.0, ge=0, description="Seconds it waits for a lock; 0: without end.")
    postgres_idle_in_transaction_timeout: float = Field(
        20.0, ge=0, description="After so many idle seconds it ends a transaction; 0: never."
    )

    # pymilvus reads the variable too, at import, and fails on what is no URI.
    milvus_uri: Annotated[str, AfterValidator(checked_uri)] | None = Field(
        None, pattern="^(https?://|unix:/)", description="Milvus address such as http://host:19530; beats MILVUS_HOST."
    )
    milvus_host: str | None = Field(None, description="Milvus server; unset (and no URI) starts Milvus Lite.")
    milvus_port: int = Field(19530, ge=1, le=65535, description="Its port.")
    milvus_token: SecretStr | None = Field(None, description="user:password or API key of Milvus.")
    milvus_db_name: str | None = Field(None, description="Database of Milvus; unset: its default one.")
    milvus_tls_ca: Path | None = Field(None, description="CA of a Milvus at https://, PEM; unset: the public CAs.")
    milvus_tls_cert: Path | None = Field(None, description="This server's certificate for Milvus, PEM.")
    milvus_tls_key: Path | None = Field(None, description="Its key, PEM, without a password.")
    milvus_timeout: float = Field(10.0, gt=0, description="Seconds a Milvus call may take.")

    embedding_model: Literal["use-multilingual", "bge-m3", "sentence-bert"] | OpenAILike = Field(
        "use-multilingual", description="Embedding provider."
    )
    embedding_previous_model: str | None = Field(
        None,
        pattern=MODEL_NAME,
        description="provider, provider:model or provider:model#dimension: served too, for bots that are to move.",
    )
    embedding_previous_settings: dict[str, SecretStr] = Field(
        {}, description="JSON: settings that are others for EMBEDDING_PREVIOUS_MODEL, such as its OPENAI_API_KEY."
    )
    embedding_dimension: int | None = Field(
        None, ge=1, le=32768, description="Asked of openai; else must equal the model's."
    )
    embedding_threads: int | None = Field(None, ge=1, description="Threads that embed; default: cores.")
    embedding_long_text: Literal["refuse", "split", "cut"] = Field("refuse", description="More than the model reads.")
    embedding_batch_size: int | None = Field(None, ge=1, description="Most texts of a batch; default: the model's.")
    embedding_batch_wait_ms: float = Field(0.0, ge=0, le=1000, description="A batch that is not full waits so long.")
    embedding_queue_texts: int | None = Field(None, ge=1, description="Texts that may wait; more are a 503.")
    embedding_cache_mb: int = Field(64, ge=0, description="Vectors that are kept in memory; 0 keeps none.")
    embedding_timeout: float = Field(20.0, gt=0, description="Seconds a call of openai may take, repetitions included.")
    embedding_breaker_failures: int = Field(5, ge=1, description="Failures in a row that open the circuit breaker.")
    embedding_breaker_seconds: float = Field(5.0, gt=0, description="Pause between its probes.")
    openai_api_key: SecretStr | None = Field(None, description="Of OpenAI or the server at OPENAI_BASE_URL.")
    openai_base_url: str | None = Field(None, pattern="^https?://", description="A server that speaks as OpenAI's.")
    openai_model: str | None = Field(
        None, min_length=1, description="Model for documents, and for queries too without OPENAI_QUERY_MODEL."
    )
    openai_query_model: str | None = Field(None, min_length=1, description="Model for queries.")
    openai_query_prefix: str | None = Field(None, description="Before each query.")
    openai_document_prefix: str | None = Field(None, description="Before each text that is stored.")
    openai_query_extra_body: dict[str, Any] | None = Field(
        None, description="JSON: more fields of a request with queries."
    )
    openai_document_extra_body: dict[str, Any] | None = Field(None, description="JSON: the same with texts to store.")
    openai_encoding_format: Literal["base64", "float", "none"] | None = Field(
        None, description="How vectors are asked for; none: the field is left out."
    )
    openai_dimensions_field: str | None = Field(None, min_length=1, description="Field that asks for a dimension.")
    openai_form: Literal["openai", "cohere"] | None = Field(None, description="Form of request and answer.")
    openai_tokenizer: Path | None = Field(None, description="tokenizer.json of the model: counts tokens beforehand.")
    openai_in_flight: int = Field(8, ge=1, description="Requests to openai at a time.")
    openai_max_input_tokens: int | None = Field(
        None, ge=1, description="Most tokens of a text; default: the provider's."
    )
    openai_max_request_tokens: int | None = Field(None, ge=1, description="Most tokens of a request.")
    embedding_precision: Literal["fp32", "bf16"] = Field("fp32", description="Of bge-m3 and sentence-bert.")
    embedding_device: str = Field("auto", min_length=1, description="Torch's device for these: cpu, cuda, cuda:1, ...")
    bge_m3_model: str = Field("BAAI/bge-m3", min_length=1, description="Folder, hub name or name@revision.")
    sentence_bert_model: str | None = Field(None, description="Folder, hub name or name@revision.")
    sentence_bert_query_prompt: str | None = Field(None, description="Before each query; default: the model's own.")
    sentence_bert_document_prompt: str | None = Field(None, description="Before each text that is stored.")

    rerank_model: str | None = Field(
        None, description="Cross-encoder for rerank: true, a name or a folder; with RERANK_URL that server's model."
    )
    rerank_url: str | None = Field(None, pattern="^https?://", description="Reranker over the network: the whole URL.")
    rerank_api: Literal["tei", "vllm", "jina", "cohere"] | None = Field(None, description="Whose form it speaks.")
    rerank_api_key: SecretStr | None = Field(None, description="Its key.")
    rerank_timeout: float = Field(10.0, gt=0, description="Seconds a call of it may take, repetitions included.")
    rerank_top: int = Field(20, ge=1, le=200, description="How many of the best results it reads again.")

    max_body_bytes: int = Field(32 << 20, ge=1024, description="Longest body; a longer one is a 413.")
    max_buffered_bytes: int = Field(64 << 20, ge=1024, description="Bodies that a process holds at a time.")
    max_documents: int = Field(1_000, ge=1, le=1_000, description="Documents of a batch.")
    max_chunks: int = Field(65_536, ge=1, le=65_536, description="Chunks of a request.")
    max_text_chars: int = Field(8_192, ge=1, le=8_192, description="Characters of a chunk or a query.")
    max_metadata_bytes: int = Field(65_536, ge=2, le=65_536, description="A document's metadata as JSON in UTF-8.")
    max_metadata_depth: int = Field(32, ge=1, le=32, description="Levels of nesting in it.")
    rate_limit: Annotated[str, AfterValidator(_rate)] | None = Field(
        None, description="Requests of an account, such as 50/second;1000/minute; unset: any number."
    )
    rate_limit_storage_uri: Annotated[str, AfterValidator(checked_uri)] | None = Field(
        None, pattern="^rediss?://", description="Redis that counts them for all processes; unset: each for itself."
    )
    max_concurrent_writes: int = Field(64, ge=1, description="Writes of an account at a time, in each process.")
    max_concurrent_reads: int = Field(512, ge=1, description="Reads of an account at a time, in each process.")
    body_timeout: float = Field(10.0, gt=0, description="Seconds for a body's first bytes, then 64 KiB a second.")
    request_timeout: float = Field(30.0, gt=0, description="Seconds a request may take that stores nothing.")
    ingest_timeout: float = Field(900.0, gt=0, description="Seconds one may take that stores or embeds documents.")
    header_timeout: float = Field(10.0, gt=0, description="Seconds for a request's head to arrive.")
    max_header_bytes: int = Field(32_768, ge=1024, description="Longest head; a longer one is a 431.")
    keep_alive_timeout: int = Field(75, ge=1, description="Seconds an idle connection is kept; more than clients do.")
    max_connections: int = Field(2_000, ge=1, description="Connections of a process; idle ones give way.")
    backlog: int = Field(2_048, ge=1, description="Connections that may wait to be accepted.")

    saga_lease_seconds: float = Field(30.0, gt=0, description="A write whose process is silent this long is undone.")
    idempotency_hours: float = Field(24.0, gt=0, description="How long the answer to an Idempotency-Key is kept.")
    startup_timeout: float = Field(60.0, gt=0, description="Seconds to wait for the stores at start-up.")
    health_timeout: float = Field(2.0, gt=0, description="Seconds a dependency has to answer a health check.")
    recovery_interval_seconds: float = Field(1.0, gt=0, description="Pause between two rounds of recovery.")
    index_check_interval_seconds: float = Field(
        60.0, ge=0, description="How often a bot's vectors are counted; 0: never, nor are lost ones made again."
    )
    rebuild_max_chunks: int = Field(
        100_000, ge=0, description="Most chunks of a bot that a paid provider is sent again when Milvus lost them."
    )

    def contradictions(self) -> list[tuple[str, str]]:
        """(setting, what is wrong) wherever settings that are right by themselves do not go together."""
        needs = [
            ("POSTGRES_POOL_MIN", self.postgres_pool_min > self.postgres_pool_max, "is above POSTGRES_POOL_MAX"),
            ("MAX_BUFFERED_BYTES", self.max_buffered_bytes < self.max_body_bytes, "is below MAX_BODY_BYTES"),
            (
                "SENTENCE_BERT_MODEL",
                self.embedding_model == "sentence-bert" and self.sentence_bert_model is None,
                "is needed with EMBEDDING_MODEL=sentence-bert: a folder or a hub name",
            ),
            (
                "EMBEDDING_LONG_TEXT",
                self.embedding_long_text == "cut" and self.embedding_model in OPENAI_LIKE,
                f"cannot be cut with EMBEDDING_MODEL={self.embedding_model}: refuse or split",
            ),
            (
                "OPENAI_API_KEY",
                self.embedding_model in OPENAI_LIKE
                and self.embedding_model not in OWN_SERVERS
                and not (self.openai_api_key or self.openai_base_url),
                f"is needed with EMBEDDING_MODEL={self.embedding_model}, unless OPENAI_BASE_URL names a server that "
                "wants none",
            ),
            (
                "OPENAI_MODEL",
                self.embedding_model in OWN_SERVERS and not self.openai_model,
                f"is needed with EMBEDDING_MODEL={self.embedding_model}: the name of the model that it serves",
            ),
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                self.otel_exporter_otlp_endpoint is not None
                and not (_installed("opentelemetry.sdk") and _installed("opentelemetry.exporter.otlp.proto.http")),
                "needs requirements/tracing.txt",
            ),
            (
                "RATE_LIMIT_STORAGE_URI",
                self.rate_limit_storage_uri is not None and not self.rate_limit,
                "needs RATE_LIMIT",
            ),
            (
                "RATE_LIMIT_STORAGE_URI",
                self.rate_limit_storage_uri is not None and not _installed("redis"),
                "needs requirements/redis.txt",
            ),
            (
                "RERANK_MODEL",
                self.rerank_model is not None and self.rerank_url is None and not _installed("sentence_transformers"),
                "needs requirements/models.txt, or RERANK_URL",
            ),
            (
                "RERANK_API",
                self.rerank_url is not None and self.rerank_api is None,
                "is needed with RERANK_URL: tei, vllm, jina or cohere",
            ),
            (
                "RERANK_MODEL",
                self.rerank_url is not None and self.rerank_api in ("jina", "cohere") and not self.rerank_model,
                f"is needed with RERANK_API={self.rerank_api}",
            ),
        ]
        return [*((setting, reason) for setting, wrong, reason in needs if wrong), *self._tls_contradictions()]

    def _tls_contradictions(self) -> list[tuple[str, str]]:
        needs = [
            (
                "POSTGRES_SSLMODE",
                self.postgres_host is None and self.postgres_sslmode != "prefer",
                "needs POSTGRES_HOST: the embedded PostgreSQL is reached without a network",
            ),
            (
                "POSTGRES_SSLROOTCERT",
                self.postgres_sslmode.startswith("verify") and self.postgres_sslrootcert is None,
                f"is needed with POSTGRES_SSLMODE={self.postgres_sslmode}: the PEM file of the server's CA",
            ),
            (
                "POSTGRES_SSLCERT",
                (self.postgres_sslcert is None) != (self.postgres_sslkey is None),
                "and POSTGRES_SSLKEY go together",
            ),
            (
                "MILVUS_TLS_CA",
                self.milvus_tls_ca is not None and not (self.milvus_address or "").startswith("https://"),
                "needs a MILVUS_URI that begins with https://",
            ),
            (
                "MILVUS_TLS_CERT",
                (self.milvus_tls_cert is None) != (self.milvus_tls_key is None)
                or (self.milvus_tls_cert is not None and self.milvus_tls_ca is None),
                "goes together with MILVUS_TLS_KEY and MILVUS_TLS_CA",
            ),
            (
                "MILVUS_DB_NAME",
                self.milvus_db_name is not None and self.milvus_address is None,
                "needs a Milvus server: Milvus Lite has one database",
            ),
        ]
        files = [name for name in type(self).model_fields if name.startswith(("postgres_ssl", "milvus_tls"))]
        unreadable = [
            (name.upper(), problem)
            for name in files
            if isinstance(file := getattr(self, name), Path) and (problem := _file_problem(file, name))
        ]
        return [*((setting, reason) for setting, wrong, reason in needs if wrong), *unreadable]

    @property
    def milvus_address(self) -> str | None:
        """URI of the configured Milvus server, or None for Milvus Lite."""
        if self.milvus_uri:
            return self.milvus_uri
        scheme = "https" if self.milvus_tls_ca else "http"
        return f"{scheme}://{self.milvus_host}:{self.milvus_port}" if self.milvus_host else None

    @property
    def embeds_postgres(self) -> bool:
        return self.postgres_host is None

    @property
    def embeds_milvus(self) -> bool:
        return self.milvus_address is None


def read_settings() -> tuple[Settings, list[str]]:
    """The settings, and a line for each that is wrong. What is wrong has its default in them."""
    problems: dict[str, str] = {}
    try:
        settings = Settings()
    except ValidationError as exc:
        problems = {str(error["loc"][0]): error["msg"] for error in exc.errors()}
        settings = Settings(**{name: Settings.model_fields[name].default for name in problems})
    wrong = {name.upper() for name in problems}
    lines = [f"{name.upper()}: {message}" for name, message in problems.items()]
    lines += [f"{setting} {reason}." for setting, reason in settings.contradictions() if setting not in wrong]
    if settings.embeds_postgres or settings.embeds_milvus:
        lines += _unwritable(settings.data_dir)
    return settings, lines


def checked_settings() -> Settings:
    """Raises StartupError, which names all that is wrong."""
    settings, problems = read_settings()
    if problems:
        raise StartupError("; ".join(problems))
    return settings


def _file_problem(file: Path, setting: str) -> str | None:
    try:
        with file.open("rb"):
            status = file.stat()
    except OSError as exc:
        return f"{file} cannot be read ({exc.strerror})"
    # As libpq, which the migrations go through: a key of root's may be readable for a group.
    if setting == "postgres_sslkey" and status.st_mode & (0o077 if status.st_uid else 0o037):
        return f"{file} is open to other users: chmod 600 it"
    return None


def _unwritable(folder: Path) -> list[str]:
    there = next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path("/"))
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return []
    return [f"DATA_DIR {folder} cannot be written: choose another folder."]


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # A parent package is missing.
        return False
