"""Chooses the embedder by setting."""

import re
from dataclasses import dataclass
from typing import TypedDict

from pydantic import ValidationError

from app.config import MODEL_NAME, OPENAI_LIKE, Settings
from app.core.embedding.caching_embedder import CachingEmbedder
from app.core.embedding.port import Embedder
from app.core.embedding.providers.use_multilingual import UseMultilingual
from app.utils.errors import StartupError

LEASE_SHARE = 2 / 3
MODELS = {
    "use-multilingual": None,
    "bge-m3": "bge_m3_model",
    "sentence-bert": "sentence_bert_model",
    **dict.fromkeys(OPENAI_LIKE, "openai_model"),
}
"""Each provider, and the setting that chooses its model."""
OF_ONE_MODEL = ("openai_query_model",)
"""Settings that belong to OPENAI_MODEL, and so not to another model of the same provider."""
OF_ONE_PROVIDER = (
    *OF_ONE_MODEL,
    "openai_model",
    "openai_base_url",
    "openai_api_key",
    "openai_query_prefix",
    "openai_document_prefix",
    "openai_query_extra_body",
    "openai_document_extra_body",
    "openai_encoding_format",
    "openai_dimensions_field",
    "openai_max_input_tokens",
    "openai_max_request_tokens",
    "openai_tokenizer",
    "embedding_batch_size",
)
"""Those that belong to the provider that EMBEDDING_MODEL names, where it is reached over the network."""


class QueueOptions(TypedDict):
    batch_texts: int | None
    batch_wait: float
    queue_texts: int | None


@dataclass(frozen=True, slots=True)
class Tuning:
    """What no setting changes; tests do. ``batch_wait`` and ``breaker_pause`` in seconds.

    ``queue_texts``: texts of documents that may wait; None: 32,768 for a provider over the network, else 8,192.
    """

    batch_wait: float = 0.0
    queue_texts: int | None = None
    breaker_failures: int = 5
    breaker_pause: float = 5.0


TUNING = Tuning()


def settings_for(settings: Settings, name: str) -> Settings:
    """The settings that run the model ``name``: provider, provider:model or provider:model#dimension.

    The provider of EMBEDDING_MODEL, named alone, is that model; otherwise EMBEDDING_DIMENSION does not count, nor for
    another provider over the network what is set for that of EMBEDDING_MODEL. EMBEDDING_PREVIOUS_SETTINGS go over all
    where the name is that of EMBEDDING_PREVIOUS_MODEL. Raises StartupError for a name that is none.
    """
    if not re.fullmatch(MODEL_NAME, name):
        raise StartupError(f"{name!r} names no model: write {', '.join(MODELS)}, with :model or :model#dimension.")
    if name == settings.embedding_model:
        return settings
    rest, _, dimension = name.partition("#")
    provider, _, model = rest.partition(":")
    changes: dict[str, object] = {
        "embedding_model": provider,
        "embedding_dimension": int(dimension) if dimension else None,
    }
    if provider in OPENAI_LIKE and settings.embedding_model in OPENAI_LIKE:
        other = OF_ONE_MODEL if provider == settings.embedding_model else OF_ONE_PROVIDER
        changes |= {field: None for field in other if getattr(settings, field) is not None}
    if model:
        if provider not in MODELS or (setting := MODELS[provider]) is None:
            raise StartupError(f"{provider} is one model: leave out :{model}.")
        changes[setting] = model
    changed = settings.model_copy(update=changes)
    return _with_previous(changed) if name == settings.embedding_previous_model else changed


def _with_previous(settings: Settings) -> Settings:
    """Raises StartupError for what is no setting, or has a wrong value."""
    given = {name.lower(): value.get_secret_value() for name, value in settings.embedding_previous_settings.items()}
    if not given:
        return settings
    known = set(Settings.model_fields) - {"embedding_model", "embedding_previous_model"}
    if unknown := sorted(given.keys() - known):
        names = ", ".join(unknown).upper()
        raise StartupError(f"EMBEDDING_PREVIOUS_SETTINGS holds {names}, which cannot be set there.")
    try:
        values = Settings(_env_file=None, **given)  # type: ignore[arg-type]
    except ValidationError as exc:
        wrong = "; ".join(f"{str(error['loc'][0]).upper()}: {error['msg']}" for error in exc.errors())
        raise StartupError(f"EMBEDDING_PREVIOUS_SETTINGS: {wrong}.") from None
    return settings.model_copy(update={name: getattr(values, name) for name in given})


async def open_embedder(settings: Settings, tuning: Tuning = TUNING) -> CachingEmbedder:
    """The configured embedder, loaded.

    Raises StartupError when it cannot be, and when EMBEDDING_DIMENSION is not the model's.
    """
    embedder = _embedder(settings, tuning)
    try:
        await embedder.ping()
        if settings.embedding_dimension not in (None, embedder.dimension):
            raise StartupError(
                f"EMBEDDING_DIMENSION={settings.embedding_dimension}, but {embedder.model} makes "
                f"{embedder.dimension}: leave it unset."
            )
    except BaseException:
        await embedder.close()
        raise
    return CachingEmbedder(embedder, settings.embedding_cache_mb << 20)


def _embedder(settings: Settings, tuning: Tuning = TUNING) -> Embedder:
    """Imports a provider only where it is wanted: torch alone takes seconds."""
    queue = QueueOptions(
        batch_texts=settings.embedding_batch_size,
        batch_wait=tuning.batch_wait,
        queue_texts=tuning.queue_texts,
    )
    match settings.embedding_model:
        case "bge-m3":
            from app.core.embedding.providers.bge_m3 import BgeM3

            return BgeM3(
                settings.bge_m3_model,
                dtype=settings.embedding_dtype,
                device=settings.embedding_device,
                threads=settings.embedding_threads,
                long_text=settings.embedding_long_text,
                **queue,
            )
        case "sentence-bert":
            from app.core.embedding.providers.sentence_bert import SentenceBert

            if settings.sentence_bert_model is None:
                raise StartupError("EMBEDDING_MODEL=sentence-bert needs SENTENCE_BERT_MODEL: a folder or a hub name.")
            return SentenceBert(
                settings.sentence_bert_model,
                query_prompt=settings.sentence_bert_query_prompt,
                document_prompt=settings.sentence_bert_document_prompt,
                dtype=settings.embedding_dtype,
                device=settings.embedding_device,
                threads=settings.embedding_threads,
                long_text=settings.embedding_long_text,
                **queue,
            )
        case "use-multilingual":
            return UseMultilingual(settings.embedding_threads, **queue)
        case _:
            return _openai(settings, tuning)


def _openai(settings: Settings, tuning: Tuning) -> Embedder:
    if settings.embedding_long_text == "truncate":
        raise StartupError(
            "EMBEDDING_LONG_TEXT=truncate needs bge-m3 or sentence-bert: "
            f"use error or split with {settings.embedding_model}."
        )
    from app.core.embedding.providers.openai_embedder import OpenAIEmbedder
    from app.core.embedding.providers.presets import endpoint_for

    return OpenAIEmbedder(
        endpoint_for(settings),
        api_key=settings.openai_api_key.get_secret_value() if settings.openai_api_key else None,
        wanted_dimension=settings.embedding_dimension,
        # A write that waits for the provider must end before its lease does.
        timeout=min(settings.embedding_timeout, settings.saga_lease_seconds * LEASE_SHARE),
        start_timeout=settings.startup_timeout,
        max_concurrency=settings.openai_max_concurrency,
        tokenizer=settings.openai_tokenizer,
        batch_wait=tuning.batch_wait,
        queue_texts=tuning.queue_texts,
        long_text=settings.embedding_long_text,
        breaker_failures=tuning.breaker_failures,
        breaker_pause=tuning.breaker_pause,
    )
