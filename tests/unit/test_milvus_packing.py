"""The rows that are packed here are those that pymilvus would pack."""

import numpy as np
import pytest
from pymilvus import DataType
from pymilvus.client.prepare import Prepare

from app.core.stores.milvus.packing import insert_request
from app.schemas import milvus as schema


@pytest.mark.parametrize(("rows", "dimension"), [(1, 2), (3, 32), (50, 512)])
@pytest.mark.parametrize("lexical", [False, True])
def test_packed_as_pymilvus_packs(rows: int, dimension: int, lexical: bool) -> None:
    random = np.random.default_rng(rows)
    chunk_ids = random.integers(0, 2**62, rows)
    doc_ids = random.integers(0, 2**62, rows)
    embeddings = random.standard_normal((2 * rows, dimension), np.float32)[::2]
    words = [f"word{number} 경복" for number in range(rows)] if lexical else None

    fields = [
        {"name": schema.CHUNK_ID, "type": DataType.INT64},
        {"name": schema.DOC_ID, "type": DataType.INT64},
        {"name": schema.EMBEDDING, "type": DataType.FLOAT_VECTOR, "params": {"dim": dimension}},
    ]
    if lexical:
        fields.append({"name": schema.LEXICAL, "type": DataType.VARCHAR, "params": {"max_length": schema.MAX_VARCHAR}})
    entities = [
        {
            schema.CHUNK_ID: int(chunk_ids[number]),
            schema.DOC_ID: int(doc_ids[number]),
            schema.EMBEDDING: embeddings[number],
            **({schema.LEXICAL: words[number]} if words else {}),
        }
        for number in range(rows)
    ]
    theirs = Prepare.row_insert_param("c", entities, "", fields)
    ours = insert_request("c", chunk_ids, doc_ids, embeddings, words)
    assert (ours.collection_name, ours.num_rows) == (theirs.collection_name, theirs.num_rows)
    by_name = {field.field_name: field for field in theirs.fields_data}
    assert len(by_name) == len(ours.fields_data)
    for field in ours.fields_data:
        other = by_name[field.field_name]
        assert (field.type, field.scalars, field.vectors) == (other.type, other.scalars, other.vectors)
