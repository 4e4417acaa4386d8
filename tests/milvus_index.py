"""Connects to Milvus with the analyzer that servers use."""

from functools import partial

from app.core.analyzers.analyzers import lexical_text
from app.core.stores.milvus.index import MilvusIndex

connect_index = partial(MilvusIndex.connect, analyzer=lexical_text)
