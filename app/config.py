"""All settings. ``app.settings_check`` reads them once from the environment and ``.env``; then they are passed in."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.utils.uris import checked_uri

ENV_FILE = ".env"

LocalProvider = Literal["use-multilingual", "bge-m3", "sentence-bert"]
"""Embedding models that run in the server's process."""
OpenAILike = Literal[
    "openai", "upstage", "voyage", "cohere", "jina", "gemini", "nvidia", "clova", "tei", "vllm", "ollama"
]
OPENAI_LIKE: tuple[str, ...] = get_args(OpenAILike)
"""Providers over the network, each with a preset in core/embedding/providers/presets.py."""
OWN_SERVERS = ("tei", "vllm", "ollama")
"""Those that operators run themselves: usually without keys, and OPENAI_MODEL must name the model."""
PAID = tuple(name for name in OPENAI_LIKE if name not in OWN_SERVERS)
"""Those that charge for texts, so vectors that Milvus lost are made again only up to REBUILD_MAX_CHUNKS."""
MODEL_NAME = rf"^({'|'.join(get_args(LocalProvider) + OPENAI_LIKE)})(:[^#]+)?(#[1-9]\d{{0,4}})?$"
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
    """Each field is an environment variable of the same name in capitals.

    ``python -m app.cli settings`` makes docs/SETTINGS.md of the fields: their order, defaults and descriptions.
    """

    model_config = SettingsConfigDict(
        env_file=ENV_FILE, env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    # Server
    host: str = Field("127.0.0.1", description="Address that `scripts/server` listens on.")
    port: int = Field(8000, ge=1, le=65535, description="Port that `scripts/server` listens on.")
    data_dir: Path = Field(Path("data"), description="Folder of the embedded PostgreSQL and Milvus Lite.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Lowest level that is logged.")
    log_format: Literal["text", "json"] = Field("text", description="Log lines for people, or one JSON object a line.")
    allowed_hosts: str | None = Field(
        None,
        description="Host names by which the server may be called, in addition to `localhost`, separated by commas; "
        "`*` allows any. Unset: any, except that `scripts/server` without keys on loopback answers to `localhost` "
        "only.",
    )
    docs: Literal["open", "key", "off"] = Field(
        "open",
        description="Access to `/docs`, `/redoc` and `/openapi.json`: for all, with an API key, or for none.",
    )
    console: Literal["open", "off"] = Field(
        "open",
        description="`/console`, the page to search, load and watch bots in a browser: served, or not. It asks for an "
        "API key where keys are required.",
    )
    health_open: bool = Field(
        True,
        description="`false`: `/health` requires a key, and `/health/ready` lists dependencies only with one.",
    )
    otel_exporter_otlp_endpoint: str | None = Field(
        None,
        pattern="^https?://",
        description="Collector of traces, OTLP over HTTP, such as `http://host:4318`; needs "
        "`requirements/tracing.txt`.",
    )
    drain_seconds: float = Field(
        1.0, ge=0, description="After SIGTERM the server goes on serving for this long, reported as not ready."
    )
    graceful_shutdown_timeout: int = Field(
        30, ge=1, description="Seconds that requests in flight then have to finish (uvicorn's setting of this name)."
    )

    # API keys
    auth_disabled: bool = Field(
        False, description="`true`: no API key is required, and every caller may do everything."
    )
    api_key_cache_ttl: float = Field(
        5.0, ge=0, le=300, description="Seconds that a key is cached: a revoked key works for at most this much longer."
    )

    # PostgreSQL
    postgres_host: Annotated[str, AfterValidator(_host)] | None = Field(
        None, description="PostgreSQL server. Unset: the server starts its own, in `DATA_DIR`."
    )
    postgres_port: int = Field(5432, ge=1, le=65535, description="Its port.")
    postgres_db_name: str = Field("rag_db_chatty", description="Database. It must exist, unless it is embedded.")
    postgres_user: str = Field("postgres", description="Role.")
    postgres_password: SecretStr | None = Field(None, description="The role's password.")
    postgres_sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = Field(
        "prefer", description="TLS, as libpq's `sslmode`."
    )
    postgres_sslrootcert: Path | None = Field(
        None, description="PEM file of the CA of PostgreSQL's certificate, for `verify-ca` and `verify-full`."
    )
    postgres_sslcert: Path | None = Field(
        None, description="PEM file of the client certificate, where PostgreSQL requires one."
    )
    postgres_sslkey: Path | None = Field(None, description="PEM file of its key, without a password.")
    postgres_pooler: Literal["auto", "transaction"] = Field(
        "auto",
        description="A pooler such as [PgBouncer](ops/postgresql.md#behind-pgbouncer) is detected; `transaction` says "
        "that there is one where it is not.",
    )
    postgres_pool_max: int = Field(16, ge=1, description="Most connections of each process.")
    postgres_timeout: float = Field(10.0, gt=0, description="Seconds that a connection or a statement may take.")

    # Milvus
    # pymilvus reads the variable too, at import, and fails on what is no URI.
    milvus_uri: Annotated[str, AfterValidator(checked_uri)] | None = Field(
        None,
        pattern="^(https?://|unix:/)",
        description="Milvus server, such as `http://host:19530`; `https://` for TLS. Takes precedence over "
        "`MILVUS_HOST`.",
    )
    milvus_host: str | None = Field(
        None,
        description="Milvus server. Unset, with `MILVUS_URI` unset too: the server starts Milvus Lite in `DATA_DIR`.",
    )
    milvus_port: int = Field(19530, ge=1, le=65535, description="Its port.")
    milvus_token: SecretStr | None = Field(None, description="`user:password`, or an API key of Milvus.")
    milvus_db_name: str | None = Field(
        None, description="Database of Milvus, which must exist. Unset: the one named `default`."
    )
    milvus_tls_ca: Path | None = Field(
        None, description="PEM file of the CA of Milvus's certificate. Unset: the public CAs."
    )
    milvus_tls_cert: Path | None = Field(
        None, description="PEM file of the client certificate, where Milvus requires one."
    )
    milvus_tls_key: Path | None = Field(None, description="PEM file of its key, without a password.")
    milvus_timeout: float = Field(10.0, gt=0, description="Seconds that a call to Milvus may take.")

    # Embedding
    embedding_model: LocalProvider | OpenAILike = Field(
        "use-multilingual", description="Embedding provider; [EMBEDDINGS.md](EMBEDDINGS.md) compares them."
    )
    embedding_dimension: int | None = Field(
        None,
        ge=1,
        le=32768,
        description="Dimension requested from a provider over the network; for a local model it must be the model's "
        "own.",
    )
    embedding_previous_model: str | None = Field(
        None,
        pattern=MODEL_NAME,
        description="Model before this one, served too while bots "
        "[move](EMBEDDINGS.md#moving-to-another-model): `provider`, `provider:model` or `provider:model#dimension`.",
    )
    embedding_previous_settings: dict[str, SecretStr] = Field(
        {}, description='Settings with another value for that model, as JSON: `{"OPENAI_API_KEY": "..."}`.'
    )
    embedding_long_text: Literal["error", "split", "truncate"] = Field(
        "error",
        description="What happens to a text of more tokens than the model reads; `truncate` is for local models only.",
    )
    embedding_batch_size: int | None = Field(
        None, ge=1, description="Most texts of one batch. Unset: what suits the model or the provider."
    )
    embedding_cache_mb: int = Field(64, ge=0, description="Megabytes of vectors that each process caches; 0: no cache.")
    embedding_timeout: float = Field(
        20.0,
        gt=0,
        description="Seconds that a call to a provider over the network may take, retries included; at most two thirds "
        "of `SAGA_LEASE_SECONDS`.",
    )
    embedding_threads: int | None = Field(None, ge=1, description="Threads of a local model. Unset: one for each core.")
    embedding_device: str = Field(
        "auto",
        min_length=1,
        description="Torch device of `bge-m3` and `sentence-bert`: `cpu`, `cuda`, `cuda:1`, `mps`.",
    )
    embedding_dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Data type of the weights of these two."
    )
    bge_m3_model: str = Field(
        "BAAI/bge-m3", min_length=1, description="Folder, name on the Hugging Face hub, or `name@revision`."
    )
    sentence_bert_model: str | None = Field(None, description="The same for `sentence-bert`, which requires it.")
    sentence_bert_query_prompt: str | None = Field(
        None, description='Put before each query, such as `"query: "`. Unset: the model\'s own.'
    )
    sentence_bert_document_prompt: str | None = Field(
        None, description="Put before each text that is stored. Unset: the model's own."
    )

    # Embedding providers over the network
    openai_api_key: SecretStr | None = Field(
        None, description="API key of the provider; not needed where `OPENAI_BASE_URL` names a server without keys."
    )
    openai_base_url: str | None = Field(
        None, pattern="^https?://", description="OpenAI-compatible server. Unset: the provider's."
    )
    openai_model: str | None = Field(
        None,
        min_length=1,
        description="Model; for documents only where `OPENAI_QUERY_MODEL` is set. Unset: the provider's, such as "
        "`text-embedding-3-small`.",
    )
    openai_query_model: str | None = Field(
        None, min_length=1, description="Model for queries, where it is another one. `upstage` needs no such setting."
    )
    openai_query_prefix: str | None = Field(
        None, description='Put before each query, such as `"query: "`, where the model expects it.'
    )
    openai_document_prefix: str | None = Field(None, description="Put before each text that is stored.")
    openai_query_extra_body: dict[str, Any] | None = Field(
        None,
        description='Additional fields of each request with queries, as JSON: `{"input_type": "query"}`. Unset: the '
        "provider's.",
    )
    openai_document_extra_body: dict[str, Any] | None = Field(
        None, description="The same for each request with texts to store."
    )
    openai_encoding_format: Literal["base64", "float", "none"] | None = Field(
        None,
        description="Format of the vectors in the response; `none` omits the field. Unset: the provider's, else "
        "`base64`. A format that the provider refuses is replaced.",
    )
    openai_dimensions_field: str | None = Field(
        None,
        min_length=1,
        description="Field of the request that holds `EMBEDDING_DIMENSION`. Unset: the provider's, else `dimensions`.",
    )
    openai_tokenizer: Path | None = Field(
        None,
        description="`tokenizer.json` of the model, to count tokens before a request; needs `pip install tokenizers`.",
    )
    openai_max_input_tokens: int | None = Field(
        None, ge=1, description="Most tokens that the model reads of one text. Unset: the provider's, else 8,192."
    )
    openai_max_request_tokens: int | None = Field(
        None, ge=1, description="Most tokens of one request. Unset: the provider's, else 300,000."
    )
    openai_max_concurrency: int = Field(8, ge=1, description="Requests to the provider at a time.")

    # Reranking
    rerank_model: str | None = Field(
        None,
        description='Cross-encoder for `"rerank": true`, a folder or a name on the hub; needs '
        "`requirements/models.txt`. With `RERANK_URL`: the name of that server's model.",
    )
    rerank_url: str | None = Field(
        None,
        pattern="^https?://",
        description="Reranker over the network, the whole URL, such as `http://127.0.0.1:8080/rerank`.",
    )
    rerank_api: Literal["tei", "vllm", "jina", "cohere"] | None = Field(
        None, description="API that `RERANK_URL` speaks."
    )
    rerank_api_key: SecretStr | None = Field(None, description="Its key.")
    rerank_timeout: float = Field(10.0, gt=0, description="Seconds that a call to it may take, retries included.")
    rerank_top_n: int = Field(20, ge=1, le=200, description="How many of the best results are reranked.")

    # Limits
    rate_limit: Annotated[str, AfterValidator(_rate)] | None = Field(
        None,
        description="Requests of one account, such as `50/second;1000/minute`; more are a 429. Unset: no limit.",
    )
    rate_limit_storage_uri: Annotated[str, AfterValidator(checked_uri)] | None = Field(
        None,
        pattern="^rediss?://",
        description="Redis that counts them for all processes, such as `redis://host:6379/0`; needs "
        "`requirements/redis.txt`. Unset: each process counts its own.",
    )
    max_concurrent_writes: int = Field(
        64, ge=1, description="Writes of one account at a time, in each process; more are a 429."
    )
    max_concurrent_reads: int = Field(
        512, ge=1, description="Reads of one account at a time, in each process; more are a 429."
    )
    max_body_bytes: int = Field(32 << 20, ge=1024, description="Largest request body; a larger one is a 413.")
    max_buffered_bytes: int = Field(
        64 << 20, ge=1024, description="All request bodies that one process holds at a time; more are a 503."
    )
    max_documents: int = Field(1_000, ge=1, le=1_000, description="Documents of a batch.")
    max_chunks: int = Field(65_536, ge=1, le=65_536, description="Chunks of a request.")
    max_text_chars: int = Field(8_192, ge=1, le=8_192, description="Characters of a chunk or a query.")
    max_metadata_bytes: int = Field(65_536, ge=2, le=65_536, description="A document's metadata as JSON in UTF-8.")
    max_connections: int = Field(
        2_000, ge=1, description="Connections of one process; beyond it the one idle longest is closed."
    )
    request_timeout: float = Field(30.0, gt=0, description="Seconds that a request may take; more is a 503.")
    ingest_timeout: float = Field(
        900.0,
        gt=0,
        description="The same for requests that store or embed documents, or make or delete a bot.",
    )
    header_timeout: float = Field(10.0, gt=0, description="Seconds for the head of a request to arrive; then a 408.")
    body_timeout: float = Field(
        10.0, gt=0, description="Seconds for its body to arrive, plus one for every 64 KiB; then a 408."
    )
    keep_alive_timeout: int = Field(
        75,
        ge=1,
        description="Seconds that an idle connection is kept: longer than clients and load balancers keep theirs.",
    )

    # Operation
    startup_timeout: float = Field(60.0, gt=0, description="Seconds to wait for both stores at start-up.")
    saga_lease_seconds: float = Field(
        30.0, gt=0, description="A write whose process has not renewed its lease for this long is undone."
    )
    recovery_interval_seconds: float = Field(1.0, gt=0, description="Pause between two rounds of recovery.")
    index_check_interval_seconds: float = Field(
        60.0,
        ge=0,
        description="Seconds between two counts of a bot's vectors; 0: never, and vectors that Milvus lost are not "
        "made again by themselves.",
    )
    max_loaded_collections: int = Field(
        0,
        ge=0,
        description="Bots whose collections stay in Milvus's memory; of more, those are "
        "[released](OPERATIONS.md#many-bots) whose last use is longest ago, and loaded again at their next use. "
        "0: all. All servers need the same value.",
    )
    rebuild_max_chunks: int = Field(
        100_000,
        ge=0,
        description="Largest bot, in chunks, that is sent to a paid provider again when Milvus lost its vectors; for "
        "larger ones run `python -m app.cli repair`. Local models, `tei`, `vllm` and `ollama` have no such limit.",
    )

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
