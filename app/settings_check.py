"""Reads the settings from the environment and ``.env``, and says what is wrong with them."""

import os
from importlib.util import find_spec
from pathlib import Path

from dotenv import dotenv_values
from pydantic import ValidationError

from app.config import ENV_FILE, OPENAI_LIKE, OWN_SERVERS, Settings
from app.env_file import env_file_warnings
from app.utils.errors import StartupError

RENAMED = {
    "ACCOUNT_RATE": "RATE_LIMIT",
    "ACCOUNT_WRITES": "MAX_CONCURRENT_WRITES",
    "EMBEDDING_BATCH_TEXTS": "EMBEDDING_BATCH_SIZE",
    "EMBEDDING_PRECISION": "EMBEDDING_DTYPE",
    "INDEX_CHECK_SECONDS": "INDEX_CHECK_INTERVAL_SECONDS",
    "KEY_CACHE_SECONDS": "API_KEY_CACHE_TTL",
    "MAX_BODIES_BYTES": "MAX_BUFFERED_BYTES",
    "OPENAI_DOCUMENT_BODY": "OPENAI_DOCUMENT_EXTRA_BODY",
    "OPENAI_IN_FLIGHT": "OPENAI_MAX_CONCURRENCY",
    "OPENAI_INPUT_TOKENS": "OPENAI_MAX_INPUT_TOKENS",
    "OPENAI_QUERY_BODY": "OPENAI_QUERY_EXTRA_BODY",
    "OPENAI_REQUEST_TOKENS": "OPENAI_MAX_REQUEST_TOKENS",
    "RATE_STORAGE_URI": "RATE_LIMIT_STORAGE_URI",
    "RERANK_TOP": "RERANK_TOP_N",
    "SHUTDOWN_TIMEOUT": "GRACEFUL_SHUTDOWN_TIMEOUT",
}
"""Former names of settings. They have no effect; a start names those that are set."""
REMOVED = (
    "BACKLOG",
    "EMBEDDING_BATCH_WAIT_MS",
    "EMBEDDING_BREAKER_FAILURES",
    "EMBEDDING_BREAKER_SECONDS",
    "EMBEDDING_QUEUE_TEXTS",
    "HEALTH_TIMEOUT",
    "IDEMPOTENCY_HOURS",
    "MAX_HEADER_BYTES",
    "MAX_METADATA_DEPTH",
    "OPENAI_FORM",
    "POSTGRES_IDLE_IN_TRANSACTION_TIMEOUT",
    "POSTGRES_LOCK_TIMEOUT",
    "POSTGRES_POOL_MIN",
    "POSTGRES_STATEMENT_TIMEOUT",
)
"""Former settings that are constants now."""


def settings_warnings() -> list[str]:
    """A line for each setting that is set and has no effect any more, or whose value in ``.env`` looks wrong."""
    set_names = {name.upper() for name in (*os.environ, *_names_in_env_file())}
    renamed = [f"{old} has no effect: it is called {new} now." for old, new in RENAMED.items() if old in set_names]
    removed = [f"{name} has no effect: it is no setting any more." for name in REMOVED if name in set_names]
    return [*renamed, *removed, *env_file_warnings()]


def _names_in_env_file() -> list[str]:
    try:
        return list(dotenv_values(ENV_FILE, encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return []


def read_settings() -> tuple[Settings, list[str]]:
    """The settings, and a line for each that is wrong. A setting that is wrong has its default."""
    problems: dict[str, str] = {}
    try:
        settings = Settings()
    except ValidationError as exc:
        problems = {str(error["loc"][0]): error["msg"] for error in exc.errors()}
        settings = Settings(**{name: Settings.model_fields[name].default for name in problems})
    wrong = {name.upper() for name in problems}
    lines = [f"{name.upper()}: {message}" for name, message in problems.items()]
    lines += [f"{setting} {reason}." for setting, reason in contradictions(settings) if setting not in wrong]
    if settings.embeds_postgres or settings.embeds_milvus:
        lines += _unwritable(settings.data_dir)
    return settings, lines


def checked_settings() -> Settings:
    """The settings. Raises StartupError, which names all that is wrong."""
    settings, problems = read_settings()
    if problems:
        raise StartupError("; ".join(problems))
    return settings


def contradictions(settings: Settings) -> list[tuple[str, str]]:
    """(setting, what is wrong) for settings that are valid alone and do not fit together."""
    needs = [
        ("MAX_BUFFERED_BYTES", settings.max_buffered_bytes < settings.max_body_bytes, "is below MAX_BODY_BYTES"),
        (
            "SENTENCE_BERT_MODEL",
            settings.embedding_model == "sentence-bert" and settings.sentence_bert_model is None,
            "is needed with EMBEDDING_MODEL=sentence-bert: a folder or a hub name",
        ),
        (
            "EMBEDDING_LONG_TEXT",
            settings.embedding_long_text == "truncate" and settings.embedding_model in OPENAI_LIKE,
            f"cannot be truncate with EMBEDDING_MODEL={settings.embedding_model}: use error or split",
        ),
        (
            "OPENAI_API_KEY",
            settings.embedding_model in OPENAI_LIKE
            and settings.embedding_model not in OWN_SERVERS
            and not (settings.openai_api_key or settings.openai_base_url),
            f"is needed with EMBEDDING_MODEL={settings.embedding_model}, unless OPENAI_BASE_URL names a server that "
            "wants none",
        ),
        (
            "OPENAI_MODEL",
            settings.embedding_model in OWN_SERVERS and not settings.openai_model,
            f"is needed with EMBEDDING_MODEL={settings.embedding_model}: the name of the model that it serves",
        ),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            settings.otel_exporter_otlp_endpoint is not None
            and not (_installed("opentelemetry.sdk") and _installed("opentelemetry.exporter.otlp.proto.http")),
            "needs requirements/tracing.txt",
        ),
        (
            "RATE_LIMIT_STORAGE_URI",
            settings.rate_limit_storage_uri is not None and not settings.rate_limit,
            "needs RATE_LIMIT",
        ),
        (
            "RATE_LIMIT_STORAGE_URI",
            settings.rate_limit_storage_uri is not None and not _installed("redis"),
            "needs requirements/redis.txt",
        ),
        (
            "RERANK_MODEL",
            settings.rerank_model is not None
            and settings.rerank_url is None
            and not _installed("sentence_transformers"),
            "needs requirements/models.txt, or RERANK_URL",
        ),
        (
            "RERANK_API",
            settings.rerank_url is not None and settings.rerank_api is None,
            "is needed with RERANK_URL: tei, vllm, jina or cohere",
        ),
        (
            "RERANK_MODEL",
            settings.rerank_url is not None and settings.rerank_api in ("jina", "cohere") and not settings.rerank_model,
            f"is needed with RERANK_API={settings.rerank_api}",
        ),
    ]
    return [*((setting, reason) for setting, wrong, reason in needs if wrong), *_tls_contradictions(settings)]


def _tls_contradictions(settings: Settings) -> list[tuple[str, str]]:
    needs = [
        (
            "POSTGRES_SSLMODE",
            settings.postgres_host is None and settings.postgres_sslmode != "prefer",
            "needs POSTGRES_HOST: the embedded PostgreSQL is reached without a network",
        ),
        (
            "POSTGRES_SSLROOTCERT",
            settings.postgres_sslmode.startswith("verify") and settings.postgres_sslrootcert is None,
            f"is needed with POSTGRES_SSLMODE={settings.postgres_sslmode}: the PEM file of the server's CA",
        ),
        (
            "POSTGRES_SSLCERT",
            (settings.postgres_sslcert is None) != (settings.postgres_sslkey is None),
            "and POSTGRES_SSLKEY go together",
        ),
        (
            "MILVUS_TLS_CA",
            settings.milvus_tls_ca is not None and not (settings.milvus_address or "").startswith("https://"),
            "needs a MILVUS_URI that begins with https://",
        ),
        (
            "MILVUS_TLS_CERT",
            (settings.milvus_tls_cert is None) != (settings.milvus_tls_key is None)
            or (settings.milvus_tls_cert is not None and settings.milvus_tls_ca is None),
            "goes together with MILVUS_TLS_KEY and MILVUS_TLS_CA",
        ),
        (
            "MILVUS_DB_NAME",
            settings.milvus_db_name is not None and settings.milvus_address is None,
            "needs a Milvus server: Milvus Lite has one database",
        ),
    ]
    files = [name for name in type(settings).model_fields if name.startswith(("postgres_ssl", "milvus_tls"))]
    unreadable = [
        (name.upper(), problem)
        for name in files
        if isinstance(file := getattr(settings, name), Path) and (problem := _file_problem(file, name))
    ]
    return [*((setting, reason) for setting, wrong, reason in needs if wrong), *unreadable]


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
