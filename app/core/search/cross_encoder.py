"""A reranker in this process: a cross-encoder of sentence-transformers reads query and passage together.

Needs requirements/models.txt. It is much slower than a search, and better at telling which of a few passages answers
the query (Nogueira and Cho, 2019, arXiv:1901.04085).
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from app.core.search.rerank import PairLimiter
from app.utils.errors import StartupError

BATCH_PAIRS = 16
"""Pairs in one batch. Callers take turns after each batch, and a cancelled call leaves at most one batch running."""


class CrossEncoderReranker:
    """A single thread owns the model, because its tokenizer is not thread-safe."""

    def __init__(self, name: str, model: Any, top_n: int, thread: ThreadPoolExecutor) -> None:
        self.model = name
        self.top_n = top_n
        self._model = model
        self._thread = thread
        self._limiter = PairLimiter()

    @classmethod
    async def open(cls, name: str, top_n: int) -> Self:
        """Loads the model ``name``: a folder or a name on Hugging Face. Raises StartupError."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="rerank")

        def load() -> Any:
            return import_module("sentence_transformers").CrossEncoder(name, device="cpu")

        try:
            model = await asyncio.get_running_loop().run_in_executor(thread, load)
        except ModuleNotFoundError as exc:
            thread.shutdown(wait=False)
            raise StartupError("RERANK_MODEL needs sentence-transformers: install requirements/models.txt.") from exc
        except (OSError, ValueError) as exc:
            thread.shutdown(wait=False)
            raise StartupError(
                "RERANK_MODEL is no cross-encoder that can be loaded: check its name or folder."
            ) from exc
        return cls(Path(name).name, model, top_n, thread)

    async def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        loop = asyncio.get_running_loop()
        found: list[float] = []
        with self._limiter.admit(len(pairs)):
            for start in range(0, len(pairs), BATCH_PAIRS):
                batch = list(pairs[start : start + BATCH_PAIRS])
                found += await loop.run_in_executor(self._thread, self._predict, batch)
        return found

    async def close(self) -> None:
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

    def _predict(self, pairs: list[tuple[str, str]]) -> list[float]:
        found = self._model.predict(pairs, batch_size=BATCH_PAIRS, show_progress_bar=False)
        return [float(score) for score in found]
