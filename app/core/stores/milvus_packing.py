"""Upserts packed column by column, straight from arrays: no row, no Python float for each number."""

from collections.abc import Sequence

import numpy as np
from pymilvus import DataType
from pymilvus.grpc_gen import milvus_pb2, schema_pb2

from app.core.stores.ports import Keys, Vectors
from app.schemas import milvus as schema


def upsert_request(
    collection: str, chunk_ids: Keys, doc_ids: Keys, embeddings: Vectors, words: Sequence[str] | None
) -> milvus_pb2.UpsertRequest:
    """``embeddings`` (n, dimension) of float32; ``words`` where the collection has a lexical field."""
    fields = [_integers(schema.CHUNK_ID, chunk_ids), _integers(schema.DOC_ID, doc_ids), _floats(embeddings)]
    if words is not None:
        strings = schema_pb2.StringArray(data=words)
        fields.append(
            schema_pb2.FieldData(
                type=DataType.VARCHAR,
                field_name=schema.LEXICAL,
                scalars=schema_pb2.ScalarField(string_data=strings),
            )
        )
    return milvus_pb2.UpsertRequest(collection_name=collection, num_rows=len(chunk_ids), fields_data=fields)


def _integers(name: str, values: Keys) -> schema_pb2.FieldData:
    numbers = schema_pb2.LongArray(data=values.tolist())
    return schema_pb2.FieldData(type=DataType.INT64, field_name=name, scalars=schema_pb2.ScalarField(long_data=numbers))


def _floats(embeddings: Vectors) -> schema_pb2.FieldData:
    # A packed field on the wire is its tag, its length and the numbers as they lie in memory (little-endian):
    # https://protobuf.dev/programming-guides/encoding/#packed
    raw = np.ascontiguousarray(embeddings, "<f4").tobytes()
    numbers = schema_pb2.FloatArray.FromString(b"\x0a" + _varint(len(raw)) + raw)
    vectors = schema_pb2.VectorField(dim=embeddings.shape[1], float_vector=numbers)
    return schema_pb2.FieldData(type=DataType.FLOAT_VECTOR, field_name=schema.EMBEDDING, vectors=vectors)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
