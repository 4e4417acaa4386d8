"""Connects to Milvus with the analyzer that servers use."""

from functools import partial

from app.core.analyzers.analyzers import lexical_text
from app.core.bots.loading_index import LoadingIndex
from app.core.bots.loads import Loads
from app.core.ports import VectorIndex
from app.core.stores.milvus.index import MilvusIndex
from tests.doubles.memory_store import MemoryGarbageStore, MemoryLoadStore, Tables

connect_index = partial(MilvusIndex.connect, analyzer=lexical_text)


def loading(index: VectorIndex) -> LoadingIndex:
    """The index as servers without MAX_LOADED_COLLECTIONS use it: a read loads a collection that is released."""
    tables = Tables()
    return LoadingIndex(Loads(index, MemoryLoadStore(tables), MemoryGarbageStore(tables), bound=0))
