"""The models of this server, and the names that they answer to."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from app.core.embedding.registry import EmbedderRegistry
from app.utils.errors import ErrorLocation, ModelNotFound


class RunningModel(NamedTuple):
    name: str
    task: Literal["embed", "rerank"]

    @property
    def provider(self) -> str:
        """What stands before the first colon or slash, as in openai:text-embedding-3-small."""
        return self.name.partition("/" if self.task == "rerank" else ":")[0]


class Models:
    """``reranker``: the name of the reranker's model, None without one."""

    def __init__(self, embedders: EmbedderRegistry, reranker: str | None) -> None:
        self._embedders = embedders
        self._reranker = reranker

    def __iter__(self) -> Iterator[RunningModel]:
        for embedder in self._embedders:
            yield RunningModel(embedder.model, "embed")
        if self._reranker is not None:
            yield RunningModel(self._reranker, "rerank")

    def find(self, name: str) -> RunningModel:
        """Raises ModelNotFound."""
        for running in self:
            if (embeds_as if running.task == "embed" else reranks_as)(running.name, name):
                return running
        runs = ", ".join(running.name for running in self)
        raise ModelNotFound(f"This server runs {runs}.", places=[ErrorLocation("path.model", f"is none of {runs}")])


def embeds_as(model: str, name: str) -> bool:
    """Whether an embedding model answers to the name: its own or its beginning. "a:b@c" is also "a:b", "a" and "b"."""
    _, _, own = model.partition(":")
    names = (model, own)
    return name in names or any(one.startswith((f"{name}@", f"{name}:")) for one in names)


def reranks_as(model: str, name: str) -> bool:
    """Whether a reranker answers to the name: its own, or what follows its last slash."""
    return name in (model, model.rpartition("/")[2])
