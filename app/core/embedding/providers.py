"""Chooses the embedder by setting."""

import re
from typing import TypedDict

from app.config import MODEL_NAME, Settings
from app.core.embedding.front import Front
from app.core.embedding.port import Embedder
from app.core.embedding.use_multilingual import UseMultilingual
from app.utils.errors import StartupError

LEASE_SHARE = 2 / 3
MODELS = {
    "use-multilingual": None,
    "openai": "openai_model",
    "bge-m3": "bge_m3_model",
    "sentence-bert": "sentence_bert_model",
}
"""Each provider, and the setting that chooses its model."""


class QueueOptions(TypedDict):
    batch_texts: int | None
    batch_wait: float
    queue_texts: int | None


def settings_for(settings: Settings, name: str) -> Settings:
    """The settings that run the model ``name``: provider, provider:model or provider:model#dimension.

    The provider of EMBEDDING_MODEL, named alone, is that model; otherwise EMBEDDING_DIMENSION does not count.
    Raises StartupError for a name that is none.
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
    if model:
        if provider not in MODELS or (setting := MODELS[provider]) is None:
            raise StartupError(f"{provider} is one model: leave out :{model}.")
        changes[setting] = model
    return settings.model_copy(update=changes)


async def open_embedder(settings: Settings) -> Front:
    """The configured embedder, loaded.

    Raises StartupError when it cannot be, and when EMBEDDING_DIMENSION is not the model's.
    """
    embedder = _embedder(settings)
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
    return Front(embedder, settings.embedding_cache_mb << 20)


def _embedder(settings: Settings) -> Embedder:
    """Imports a provider only where it is wanted: torch alone takes seconds."""
    queue = QueueOptions(
        batch_texts=settings.embedding_batch_texts,
        batch_wait=settings.embedding_batch_wait_ms / 1000,
        queue_texts=settings.embedding_queue_texts,
    )
    match settings.embedding_model:
        case "bge-m3":
            from app.core.embedding.bge_m3 import BgeM3

            return BgeM3(
                settings.bge_m3_model,
                precision=settings.embedding_precision,
                device=settings.embedding_device,
                threads=settings.embedding_threads,
                long_text=settings.embedding_long_text,
                **queue,
            )
        case "sentence-bert":
            from app.core.embedding.sentence_bert import SentenceBert

            if settings.sentence_bert_model is None:
                raise StartupError("EMBEDDING_MODEL=sentence-bert needs SENTENCE_BERT_MODEL: a folder or a hub name.")
            return SentenceBert(
                settings.sentence_bert_model,
                query_prompt=settings.sentence_bert_query_prompt,
                document_prompt=settings.sentence_bert_document_prompt,
                precision=settings.embedding_precision,
                device=settings.embedding_device,
                threads=settings.embedding_threads,
                long_text=settings.embedding_long_text,
                **queue,
            )
        case "use-multilingual":
            return UseMultilingual(settings.embedding_threads, **queue)
        case "openai":
            return _openai(settings, queue)


def _openai(settings: Settings, queue: QueueOptions) -> Embedder:
    if settings.embedding_long_text == "cut":
        raise StartupError("EMBEDDING_LONG_TEXT=cut is for bge-m3 and sentence-bert; openai can refuse or split.")
    from app.core.embedding.openai_embedder import OpenAIEmbedder

    return OpenAIEmbedder(
        settings.openai_model,
        api_key=settings.openai_api_key.get_secret_value() if settings.openai_api_key else None,
        base_url=settings.openai_base_url,
        wanted_dimension=settings.embedding_dimension,
        # A write that waits for the provider must end before its lease does.
        timeout=min(settings.embedding_timeout, settings.saga_lease_seconds * LEASE_SHARE),
        start_timeout=settings.startup_timeout,
        in_flight=settings.openai_in_flight,
        input_tokens=settings.openai_input_tokens,
        request_tokens=settings.openai_request_tokens,
        long_text=settings.embedding_long_text,
        breaker_failures=settings.embedding_breaker_failures,
        breaker_pause=settings.embedding_breaker_seconds,
        **queue,
    )
