"""Inserts and searches as this server sends them, without Milvus Lite's conversions.

Milvus Lite makes a dict of each row of an insert and checks the type of every number, and it answers a search with all
fields of each hit. This server needs only arrays. Both functions return None for any other request, which the inherited
code then serves.
"""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson
from milvus_lite.adapter.grpc.errors import success_status_kwargs
from pymilvus.client.types import PlaceholderType
from pymilvus.grpc_gen import common_pb2, milvus_pb2, schema_pb2

from app.core.stores.milvus_lite.collection import LiteCollection
from app.core.stores.milvus_lite.rows import Floats
from app.schemas.milvus import CHUNK_ID, DOC_ID, EMBEDDING, LEXICAL, LEXICAL_SPARSE, MAX_VARCHAR

log = logging.getLogger("lite_server")

FIELDS = [CHUNK_ID, DOC_ID, EMBEDDING]
PARAMETERS = {"topk", "round_decimal", "ignore_growing", "metric_type", "anns_field", "params"}
"""Parameters of a search that this module knows."""
FAILED = 1
"""Milvus Lite's status code of an unexpected error."""


class Columns(NamedTuple):
    """The rows of an insert: keys (rows,), documents (rows,), vectors (rows, dimension) and words, if there are any."""

    chunk_ids: Sequence[int]
    doc_ids: Sequence[int]
    vectors: Floats
    words: Sequence[str] | None


def insert(collection: LiteCollection, request: Any) -> Any:
    """The answer to an InsertRequest. A failed write gets a status with the error's text, as in Milvus Lite."""
    columns = _columns(request)
    if columns is None or not collection.takes(columns.vectors.shape[1], has_words=columns.words is not None):
        return None
    try:
        collection.insert_columns(*columns)
    except Exception as error:
        log.exception("an insert failed")
        return milvus_pb2.MutationResult(status=common_pb2.Status(code=FAILED, reason=str(error)))
    return milvus_pb2.MutationResult(
        status=common_pb2.Status(**success_status_kwargs()),
        IDs=schema_pb2.IDs(int_id=schema_pb2.LongArray(data=columns.chunk_ids)),
        insert_cnt=request.num_rows,
        succ_index=range(request.num_rows),
    )


def search(collection: LiteCollection, request: Any) -> Any:
    """The answer to a SearchRequest: keys and scores. Raises MilvusLiteError."""
    given = {pair.key: pair.value for pair in request.search_params}
    field, top_k, params = (
        given.get("anns_field", ""),
        int(given.get("topk", 0)),
        orjson.loads(given.get("params", "{}")),
    )
    if not given.keys() <= PARAMETERS or not params.keys() <= {"ef", "metric_type"} or top_k < 1:
        return None
    if given.get("round_decimal", "-1") != "-1" or request.output_fields or request.partition_names:
        return None
    if request.function_chains or request.HasField("function_score"):
        return None
    queries = _queries(request.placeholder_group, field)
    if queries is None or (field == EMBEDDING and queries.shape[1] != collection.dimension):
        return None
    collection.resolve_search_metric(field, given.get("metric_type"))
    found = collection.best(queries, top_k, field, request.dsl or None, params)
    results = schema_pb2.SearchResultData(
        num_queries=len(found), top_k=top_k, topks=[len(keys) for _, keys in found], primary_field_name=CHUNK_ID
    )
    for scores, keys in found:
        results.scores.extend(scores.tolist())
        results.ids.int_id.data.extend(keys.tolist())
    status = common_pb2.Status(**success_status_kwargs())
    return milvus_pb2.SearchResults(status=status, results=results, collection_name=collection.name)


def _columns(request: Any) -> Columns | None:
    fields = list(request.fields_data)
    names = [field.field_name for field in fields]
    if names not in (FIELDS, [*FIELDS, LEXICAL]) or request.partition_name or any(field.valid_data for field in fields):
        return None
    rows, dimension = request.num_rows, fields[2].vectors.dim
    floats = fields[2].vectors.float_vector
    chunk_ids, doc_ids = (field.scalars.long_data.data for field in fields[:2])
    words = fields[3].scalars.string_data.data if len(fields) > len(FIELDS) else None
    if rows < 1 or len(floats.data) != rows * dimension or {len(chunk_ids), len(doc_ids)} != {rows}:
        return None
    if words is not None and (len(words) != rows or any(len(text) > MAX_VARCHAR for text in words)):
        return None
    # The encoding of a packed field ends with its numbers in little-endian order.
    raw = floats.SerializeToString()
    vectors = np.frombuffer(raw, "<f4", rows * dimension, len(raw) - 4 * rows * dimension).reshape(rows, dimension)
    return Columns(chunk_ids, doc_ids, vectors, words)


def _queries(placeholder_group: bytes, field: str) -> Any:
    """The vectors (queries, dimension), or a list of texts; None if they do not suit the field."""
    placeholders = common_pb2.PlaceholderGroup.FromString(placeholder_group).placeholders
    if len(placeholders) != 1 or not placeholders[0].values:
        return None
    kind, values = placeholders[0].type, placeholders[0].values
    if field == EMBEDDING and kind == PlaceholderType.FloatVector and len({len(value) for value in values}) == 1:
        return np.frombuffer(b"".join(values), "<f4").reshape(len(values), -1)
    if field == LEXICAL_SPARSE and kind == PlaceholderType.VARCHAR:
        return [value.decode() for value in values]
    return None
