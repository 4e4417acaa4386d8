"""The embedding models and the reranker of this server, and their names in requests."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from app.core.embedding.registry import EmbedderRegistry
from app.utils.errors import ErrorLocation, ModelNotFound


class RunningModel(NamedTuple):
    name: str
    task: Literal["embed", "rerank"]

    @property
    def provider(self) -> str:
        """The first part of the name: "openai" of openai:text-embedding-3-small, "BAAI" of BAAI/bge-reranker-v2-m3."""
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
        """The model with this name or short name. Raises ModelNotFound."""
        for running in self:
            if (is_embedder_name if running.task == "embed" else is_reranker_name)(name, running.name):
                return running
        runs = ", ".join(running.name for running in self)
        raise ModelNotFound(f"This server runs {runs}.", locations=[ErrorLocation("path.model", f"is none of {runs}")])


def is_embedder_name(name: str, model: str) -> bool:
    """Whether ``name`` means the embedding model ``model``: "a:b@c" is also "a:b", "a", "b@c" and "b"."""
    _, _, without_provider = model.partition(":")
    full_names = (model, without_provider)
    return name in full_names or any(each.startswith((f"{name}@", f"{name}:")) for each in full_names)


def is_reranker_name(name: str, model: str) -> bool:
    """Whether ``name`` means the reranker ``model``: "a/b" is also "b"."""
    return name in (model, model.rpartition("/")[2])
