"""A reranker of sentence-transformers: a cross-encoder reads question and passage together.

Needs requirements/models.txt.

Slower than a search by far, and better at telling which of a few passages answers (Nogueira and Cho, 2019,
arXiv:1901.04085).
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from app.core.search.rerank import PairQueue
from app.utils.errors import StartupError

BATCH_PAIRS = 16
"""Read at a time. Callers take turns after each batch, and one that is cancelled leaves no more than a batch behind."""


class CrossEncoderReranker:
    """One thread owns the model: its tokenizer must not be shared."""

    def __init__(self, name: str, model: Any, top: int, thread: ThreadPoolExecutor) -> None:
        self.model = name
        self.top = top
        self._model = model
        self._thread = thread
        self._queue = PairQueue()

    @classmethod
    async def open(cls, name: str, top: int) -> Self:
        """Loads the model ``name``, a folder or a name on Hugging Face. Raises StartupError."""
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
        return cls(Path(name).name, model, top, thread)

    async def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        loop = asyncio.get_running_loop()
        found: list[float] = []
        with self._queue.waiting(len(pairs)):
            for start in range(0, len(pairs), BATCH_PAIRS):
                batch = list(pairs[start : start + BATCH_PAIRS])
                found += await loop.run_in_executor(self._thread, self._predict, batch)
        return found

    async def close(self) -> None:
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

    def _predict(self, pairs: list[tuple[str, str]]) -> list[float]:
        found = self._model.predict(pairs, batch_size=BATCH_PAIRS, show_progress_bar=False)
        return [float(score) for score in found]
