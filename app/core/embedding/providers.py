"""Chooses the embedder by setting."""

from app.config import Settings
from app.core.embedding.port import Embedder
from app.core.embedding.use_multilingual import UseMultilingual
from app.utils.errors import StartupError


async def open_embedder(settings: Settings) -> Embedder:
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
    return embedder


def _embedder(settings: Settings) -> Embedder:
    """Imports a provider only where it is wanted: torch alone takes seconds."""
    match settings.embedding_model:
        case "bge-m3":
            from app.core.embedding.bge_m3 import BgeM3

            return BgeM3(
                settings.bge_m3_model,
                precision=settings.embedding_precision,
                device=settings.embedding_device,
                threads=settings.embedding_threads,
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
            )
        case "use-multilingual":
            return UseMultilingual(settings.embedding_threads)
