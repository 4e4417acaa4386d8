"""Requests packed straight from arrays, and answers unpacked: no row, no Python float for each number of a vector."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
import orjson
from pymilvus import DataType
from pymilvus.client.types import ConsistencyLevel, PlaceholderType
from pymilvus.grpc_gen import common_pb2, milvus_pb2, schema_pb2

from app.core.ports import ChunkIds, Vectors
from app.schemas import milvus as schema


def insert_request(
    collection: str, chunk_ids: ChunkIds, doc_ids: ChunkIds, embeddings: Vectors, words: Sequence[str] | None
) -> milvus_pb2.InsertRequest:
    """``embeddings`` (n, dimension) of float32; ``words`` where the collection has a lexical field.

    Filled in place: a message that is given to another's constructor is copied, vectors and all.
    """
    request = milvus_pb2.InsertRequest(collection_name=collection, num_rows=len(chunk_ids))
    for name, numbers in ((schema.CHUNK_ID, chunk_ids), (schema.DOC_ID, doc_ids)):
        field = request.fields_data.add(type=DataType.INT64, field_name=name)
        field.scalars.long_data.data.extend(numbers.tolist())
    field = request.fields_data.add(type=DataType.FLOAT_VECTOR, field_name=schema.EMBEDDING)
    field.vectors.dim = embeddings.shape[1]
    # A packed field on the wire is its tag, its length and the numbers as they lie in memory (little-endian):
    # https://protobuf.dev/programming-guides/encoding/#packed
    raw = np.ascontiguousarray(embeddings, "<f4").tobytes()
    field.vectors.float_vector.MergeFromString(b"\x0a" + _varint(len(raw)) + raw)
    if words is not None:
        field = request.fields_data.add(type=DataType.VARCHAR, field_name=schema.LEXICAL)
        field.scalars.string_data.data.extend(words)
    return request


def search_request(
    collection: str,
    field: str,
    queries: Vectors | Sequence[str],
    k: int,
    params: Mapping[str, Any],
    expression: str,
    guarantee_timestamp: int,
) -> milvus_pb2.SearchRequest:
    """``queries``: vectors (n, dimension) of float32, or texts for a BM25 field. ``params``: metric_type and params.

    The answer includes every write up to ``guarantee_timestamp``. Milvus takes 0 as Strong, so 0 is sent as 1, which
    is older than every write.
    """
    if isinstance(queries, np.ndarray):
        kind, values = PlaceholderType.FloatVector, [row.tobytes() for row in queries.astype("<f4", copy=False)]
    else:
        kind, values = PlaceholderType.VARCHAR, [query.encode() for query in queries]
    placeholder = common_pb2.PlaceholderValue(tag="$0", type=kind, values=values)
    metric = params["metric_type"]
    request = milvus_pb2.SearchRequest()
    request.CopyFrom(_settings(field, k, metric, orjson.dumps({**params["params"], "metric_type": metric})))
    request.collection_name = collection
    request.dsl = expression
    request.placeholder_group = common_pb2.PlaceholderGroup(placeholders=[placeholder]).SerializeToString()
    request.guarantee_timestamp = guarantee_timestamp or 1
    request.nq = len(values)
    return request


@lru_cache(256)
def _settings(field: str, k: int, metric: str, params: bytes) -> milvus_pb2.SearchRequest:
    """What is the same in most requests, to be copied: making it takes 10 microseconds, copying it 1."""
    settings = {
        "topk": str(k),
        "round_decimal": "-1",
        "ignore_growing": "False",
        "metric_type": metric,
        "anns_field": field,
        "params": params.decode(),
    }
    return milvus_pb2.SearchRequest(
        dsl_type=common_pb2.DslType.BoolExprV1,
        search_params=[common_pb2.KeyValuePair(key=key, value=value) for key, value in settings.items()],
        consistency_level=ConsistencyLevel.Customized,
    )


def scores_by_key(found: schema_pb2.SearchResultData) -> list[dict[int, float]]:
    """For each query its keys, each once, and their scores, in the order in which they came."""
    each = zip(found.ids.int_id.data, found.scores, strict=True)
    return [dict(islice(each, count)) for count in found.topks]


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
