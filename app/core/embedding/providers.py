"""Chooses the embedder by setting."""

from app.config import Settings
from app.core.embedding.port import Embedder
from app.core.embedding.use_multilingual import UseMultilingual
from app.utils.errors import StartupError


async def open_embedder(settings: Settings) -> Embedder:
    """The configured embedder, loaded. Raises StartupError when EMBEDDING_DIMENSION is not the model's."""
    embedder = UseMultilingual(settings.embedding_threads)
    if settings.embedding_dimension not in (None, embedder.dimension):
        raise StartupError(
            f"EMBEDDING_DIMENSION={settings.embedding_dimension}, but {embedder.model} makes {embedder.dimension}: "
            "leave it unset."
        )
    await embedder.ping()
    return embedder
