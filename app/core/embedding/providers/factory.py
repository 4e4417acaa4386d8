"""Opens the embedder that the settings choose: ``open_embedder``."""

from dataclasses import dataclass

from app.config import OpenAILike, Settings
from app.core.embedding.caching_embedder import CachingEmbedder
from app.core.embedding.port import Embedder
from app.core.embedding.providers.use_multilingual import UseMultilingual
from app.core.embedding.queue.batch_queue import QueueOptions
from app.utils.errors import StartupError

LEASE_SHARE = 2 / 3
"""A call to a provider takes at most this share of a write's lease, so that the lease does not expire meanwhile."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """Values that no setting changes, only tests. ``breaker_pause`` in seconds.

    ``queue_texts``: texts of documents that may wait; None: 32,768 for a provider over the network, else 8,192.
    """

    queue_texts: int | None = None
    breaker_failures: int = 5
    breaker_pause: float = 5.0


DEFAULT_TUNING = Tuning()


async def open_embedder(settings: Settings, tuning: Tuning = DEFAULT_TUNING) -> CachingEmbedder:
    """The embedder of EMBEDDING_MODEL, ready to use.

    Raises StartupError if it cannot be opened, and if EMBEDDING_DIMENSION is not the model's.
    """
    provider = _provider(settings, tuning)
    try:
        await provider.ping()
        if settings.embedding_dimension not in (None, provider.dimension):
            raise StartupError(
                f"EMBEDDING_DIMENSION={settings.embedding_dimension}, but {provider.model} makes "
                f"{provider.dimension}: leave it unset."
            )
    except BaseException:
        await provider.close()
        raise
    return CachingEmbedder(provider, settings.embedding_cache_mb << 20)


def _provider(settings: Settings, tuning: Tuning) -> Embedder:
    """Imports only the provider's own module: torch alone takes seconds to import."""
    queue = QueueOptions(batch_texts=settings.embedding_batch_size, queue_texts=tuning.queue_texts)
    match settings.embedding_model:
        case "bge-m3":
            from app.core.embedding.providers.bge_m3 import BgeM3

            return BgeM3(
                settings.bge_m3_model,
                dtype=settings.embedding_dtype,
                device=settings.embedding_device,
                threads=settings.embedding_threads,
                long_text=settings.embedding_long_text,
                queue=queue,
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
                queue=queue,
            )
        case "use-multilingual":
            return UseMultilingual(settings.embedding_threads, queue=queue)
        case name:
            return _network_provider(name, settings, queue, tuning)


def _network_provider(name: OpenAILike, settings: Settings, queue: QueueOptions, tuning: Tuning) -> Embedder:
    if settings.embedding_long_text == "truncate":
        raise StartupError(
            f"EMBEDDING_LONG_TEXT=truncate needs bge-m3 or sentence-bert: use error or split with {name}."
        )
    from app.core.embedding.providers.openai_embedder import OpenAIEmbedder
    from app.core.embedding.providers.presets import endpoint_for

    return OpenAIEmbedder(
        endpoint_for(settings),
        api_key=settings.openai_api_key.get_secret_value() if settings.openai_api_key else None,
        wanted_dimension=settings.embedding_dimension,
        timeout=min(settings.embedding_timeout, settings.saga_lease_seconds * LEASE_SHARE),
        start_timeout=settings.startup_timeout,
        max_concurrency=settings.openai_max_concurrency,
        tokenizer=settings.openai_tokenizer,
        queue=queue,
        long_text=settings.embedding_long_text,
        breaker_failures=tuning.breaker_failures,
        breaker_pause=tuning.breaker_pause,
    )
