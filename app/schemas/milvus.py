"""The shape of a bot's collection in Milvus: its fields, its index, and how to tell one of ours."""

import re
from collections.abc import Mapping
from typing import Any, Final

from pymilvus import AsyncMilvusClient, CollectionSchema, DataType
from pymilvus.milvus_client import IndexParams

CHUNK_ID: Final = "chunk_id"
DOC_ID: Final = "doc_id"
EMBEDDING: Final = "embedding"

METRIC: Final = "COSINE"
INDEX_TYPE: Final = "HNSW"
INDEX_BUILD: Final = {"M": 16, "efConstruction": 200}

# One bot's vectors fit one shard; each shard costs the server a channel, and a search a merge.
NUM_SHARDS: Final = 1

# What holds where a call does not say. Searches say; pages of a scan cannot (see MilvusIndex._pages).
CONSISTENCY: Final = "Strong"

# Limits of Milvus (https://milvus.io/docs/limitations.md).
COLLECTION_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
MAX_DIMENSION: Final = 32_768
MAX_TOP_K: Final = 16_384  # keys from one search or one page of a query


def collection_schema(dimension: int) -> CollectionSchema:
    """Fields of a collection whose embeddings have ``dimension`` numbers."""
    schema = AsyncMilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field(CHUNK_ID, DataType.INT64, is_primary=True)
    schema.add_field(DOC_ID, DataType.INT64)
    schema.add_field(EMBEDDING, DataType.FLOAT_VECTOR, dim=dimension)
    return schema


def index_params() -> IndexParams:
    """The index of the embeddings, named after its field."""
    params = AsyncMilvusClient.prepare_index_params()
    params.add_index(EMBEDDING, index_type=INDEX_TYPE, index_name=EMBEDDING, metric_type=METRIC, params=INDEX_BUILD)
    return params


def search_params(k: int) -> dict[str, Any]:
    """Parameters of a search for ``k`` keys.

    ``ef`` is how many candidates HNSW keeps while it walks the graph: at least ``k``, and not below 64, where
    recall falls off (Malkov and Yashunin, 2016, section 4.1).
    """
    return {"metric_type": METRIC, "params": {"ef": max(k, 64)}}


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
    return (
        {name: field["type"] for name, field in fields.items()}
        == {CHUNK_ID: DataType.INT64, DOC_ID: DataType.INT64, EMBEDDING: DataType.FLOAT_VECTOR}
        and [name for name, field in fields.items() if field.get("is_primary")] == [CHUNK_ID]
        and not collection.get("auto_id")
        and not collection.get("enable_dynamic_field")
        and described_dimension(collection) == dimension
        and collection.get("consistency_level_name") == CONSISTENCY
        and (index is None or index.get("metric_type") == METRIC)
    )
