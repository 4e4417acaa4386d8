"""The shape of a bot's collection in Milvus: its fields, its indexes, and how to tell one of ours.

Where the server can, a collection has a lexical field too: a text that Milvus itself turns into a sparse vector for
BM25. One without it, made by an earlier server or on a Milvus before 2.5, is ours as well.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from pymilvus import AsyncMilvusClient, CollectionSchema, DataType, Function, FunctionType
from pymilvus.milvus_client import IndexParams

from app.schemas.rows import MARKER_COLLECTION

CHUNK_ID: Final = "chunk_id"
DOC_ID: Final = "doc_id"
EMBEDDING: Final = "embedding"
LEXICAL: Final = "lexical"
LEXICAL_SPARSE: Final = "lexical_sparse"

METRIC: Final = "COSINE"
INDEX_TYPE: Final = "HNSW"
INDEX_BUILD: Final = {"M": 16, "efConstruction": 200}

# Okapi BM25 (Robertson and Zaragoza, 2009) with Milvus's defaults, said outright because Milvus Lite has others.
BM25_METRIC: Final = "BM25"
BM25_INDEX_TYPE: Final = "SPARSE_INVERTED_INDEX"
BM25_K1: Final = 1.2
BM25_B: Final = 0.75

# One bot's vectors fit one shard; each shard costs the server a channel, and a search a merge.
NUM_SHARDS: Final = 1

MARKER: Final = MARKER_COLLECTION
MARKER_KEY: Final = "id"
MARKER_FIELDS: Final = [
    MARKER_KEY,
    "block_id",
    "first_generation",
    "last_generation",
    "installation_id",
    "database_name",
    "takes_over",
]

# What holds where a call does not say. Searches say; pages of a scan cannot (see MilvusIndex._pages).
CONSISTENCY: Final = "Strong"

# Limits of Milvus (https://milvus.io/docs/limitations.md).
COLLECTION_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
MAX_DIMENSION: Final = 32_768
MAX_TOP_K: Final = 16_384  # keys from one search or one page of a query
MAX_VARCHAR: Final = 65_535  # bytes
BM25_SINCE: Final = (2, 5)
LITE_BM25_SINCE: Final = (3, 0)


def is_lite(version: str) -> bool:
    """Whether it is Milvus Lite's (``milvus_lite-3.2.2``); a server from the package ``milvus`` is ``2.3.5-lite``."""
    return version.startswith("milvus_lite")


def has_bm25(version: str) -> bool:
    """Whether a server of this version (``v2.5.4``, ``milvus_lite-3.2.2``) makes BM25 vectors of texts."""
    number = re.search(r"(\d+)\.(\d+)", version)
    if number is None:
        return False
    since = LITE_BM25_SINCE if is_lite(version) else BM25_SINCE
    return (int(number[1]), int(number[2])) >= since


def collection_schema(dimension: int, *, lexical: bool) -> CollectionSchema:
    """Fields of a collection whose embeddings have ``dimension`` numbers."""
    schema = AsyncMilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field(CHUNK_ID, DataType.INT64, is_primary=True)
    schema.add_field(DOC_ID, DataType.INT64)
    schema.add_field(EMBEDDING, DataType.FLOAT_VECTOR, dim=dimension)
    if lexical:
        analyzer = {"tokenizer": "standard"}
        schema.add_field(
            LEXICAL, DataType.VARCHAR, max_length=MAX_VARCHAR, enable_analyzer=True, analyzer_params=analyzer
        )
        schema.add_field(LEXICAL_SPARSE, DataType.SPARSE_FLOAT_VECTOR)
        schema.add_function(Function("bm25", FunctionType.BM25, [LEXICAL], [LEXICAL_SPARSE]))
    return schema


def marker_schema() -> CollectionSchema:
    """Fields of the marker. Milvus before 2.6 makes no collection without a vector."""
    schema = AsyncMilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field(MARKER_KEY, DataType.INT64, is_primary=True)
    for name in ("first_generation", "last_generation", "takes_over"):
        schema.add_field(name, DataType.INT64)
    for name in ("block_id", "installation_id"):
        schema.add_field(name, DataType.VARCHAR, max_length=36)
    schema.add_field("database_name", DataType.VARCHAR, max_length=1_024)
    schema.add_field(EMBEDDING, DataType.FLOAT_VECTOR, dim=2)
    return schema


def index_params(field: str) -> IndexParams:
    """The index of EMBEDDING or LEXICAL_SPARSE, named after its field."""
    params = AsyncMilvusClient.prepare_index_params()
    if field == EMBEDDING:
        params.add_index(EMBEDDING, index_type=INDEX_TYPE, index_name=EMBEDDING, metric_type=METRIC, params=INDEX_BUILD)
    else:
        build = {"bm25_k1": BM25_K1, "bm25_b": BM25_B}
        params.add_index(
            LEXICAL_SPARSE, index_type=BM25_INDEX_TYPE, index_name=LEXICAL_SPARSE, metric_type=BM25_METRIC, params=build
        )
    return params


def search_params(k: int) -> dict[str, Any]:
    """Parameters of a search for ``k`` keys.

    ``ef`` is how many candidates HNSW keeps while it walks the graph: at least ``k``, and not below 64, where
    recall falls off (Malkov and Yashunin, 2016, section 4.1).
    """
    return {"metric_type": METRIC, "params": {"ef": max(k, 64)}}


def lexical_search_params() -> dict[str, Any]:
    """Parameters of a BM25 search; nothing of the query is dropped."""
    return {"metric_type": BM25_METRIC, "params": {}}


def indexed_fields(collection: Mapping[str, Any]) -> list[str]:
    """The fields of a described collection of ours that have an index."""
    return [EMBEDDING, LEXICAL_SPARSE] if described_lexical(collection) else [EMBEDDING]


def described_lexical(collection: Mapping[str, Any]) -> bool:
    """Whether a ``describe_collection`` answer shows a lexical field."""
    return any(field["name"] == LEXICAL_SPARSE for field in collection["fields"])


def described_dimension(collection: Mapping[str, Any]) -> int | None:
    """Dimension of the embeddings in a ``describe_collection`` answer; None if it has no such field."""
    for field in collection["fields"]:
        if field["name"] == EMBEDDING and field["type"] == DataType.FLOAT_VECTOR:
            return int(field["params"]["dim"])
    return None


def is_ours(collection: Mapping[str, Any], index: Mapping[str, Any] | None, dimension: int) -> bool:
    """Whether a collection, as Milvus describes it, has our fields, dimension, consistency and metric.

    ``index`` is the description of the embeddings' index, or None where it has none yet: whoever makes the
    collection makes the index a moment later. M and efConstruction may differ, Milvus Lite does not tell them.
    """
    fields = {field["name"]: field for field in collection["fields"]}
    types = {CHUNK_ID: DataType.INT64, DOC_ID: DataType.INT64, EMBEDDING: DataType.FLOAT_VECTOR}
    if described_lexical(collection):
        types |= {LEXICAL: DataType.VARCHAR, LEXICAL_SPARSE: DataType.SPARSE_FLOAT_VECTOR}
    return (
        {name: field["type"] for name, field in fields.items()} == types
        and [name for name, field in fields.items() if field.get("is_primary")] == [CHUNK_ID]
        and not collection.get("auto_id")
        and not collection.get("enable_dynamic_field")
        and described_dimension(collection) == dimension
        and collection.get("consistency_level_name") == CONSISTENCY
        and (index is None or index.get("metric_type") == METRIC)
    )
