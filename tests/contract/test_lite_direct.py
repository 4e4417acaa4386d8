"""Milvus Lite's direct path stores and answers what the inherited code would."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from milvus_lite.analyzer.sparse import compute_tf, sparse_to_bytes
from pymilvus.client.prepare import Prepare
from pymilvus.grpc_gen import milvus_pb2

from app.core.stores.milvus.packing import insert_request, search_request
from app.core.stores.milvus_lite import collection, direct, patches
from app.core.stores.milvus_lite.collection import LiteCollection
from app.core.stores.milvus_lite.rows import sparse_vector
from app.core.stores.milvus_lite.server import Lite, SerialServicer
from app.schemas import milvus as schema

TEXTS = ["벡터 검색 검색", "cosine, cosine", "", "한 낱말"]
VECTORS = np.random.default_rng(1).normal(size=(len(TEXTS), 8)).astype(np.float32)
KEYS = np.arange(65_536, 65_536 + len(TEXTS))
CONTEXT = SimpleNamespace(is_active=lambda: True, invocation_metadata=lambda: ())


class Service:
    """Milvus Lite's service without a socket, with one loaded collection."""

    def __init__(self, folder: Path, *, lexical: bool) -> None:
        self.open(folder)
        fields = schema.collection_schema(8, lexical=lexical)
        self.call("CreateCollection", Prepare.create_collection_request("c", fields))
        for field in (schema.EMBEDDING, schema.LEXICAL_SPARSE) if lexical else (schema.EMBEDDING,):
            (index,) = schema.index_params(field)
            self.call(
                "CreateIndex", Prepare.create_index_request("c", field, index.get_index_configs(), index_name=field)
            )
        self.call("LoadCollection", milvus_pb2.LoadCollectionRequest(collection_name="c"))

    def open(self, folder: Path) -> None:
        self.lite = Lite(str(folder))
        self.calls = SerialServicer(self.lite)

    @property
    def collection(self) -> LiteCollection:
        return self.lite.get_collection("c")

    def call(self, method: str, request: Any) -> Any:
        answer = getattr(self.calls, method)(type(request).FromString(request.SerializeToString()), CONTEXT)
        assert not getattr(answer, "status", answer).code, answer
        return answer

    def hits(self, request: Any) -> list[tuple[int, float]]:
        results = self.call("Search", request).results
        assert not results.fields_data
        return list(zip(results.ids.int_id.data, results.scores, strict=True))


@pytest.fixture(params=[True, False], ids=["words", "no words"])
def service(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    found = Service(tmp_path, lexical=request.param)
    yield found
    found.lite.close()


def _insert(words: Sequence[str] | None, keys: Any = KEYS) -> Any:
    return insert_request("c", keys, keys // 65_536, VECTORS, words)


def test_an_insert_writes_the_same_batch(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    has_words = bool(service.collection._bm25_analyzers)
    request = _insert(TEXTS if has_words else None)
    batches: list[Any] = []
    monkeypatch.setattr(LiteCollection, "_apply", lambda _, operation: batches.append(operation.batch))
    service.call("Insert", request)
    service.collection._next_seq -= len(TEXTS)
    monkeypatch.setattr(direct, "insert", lambda *_: None)
    service.call("Insert", request)
    assert batches[0].schema.equals(batches[1].schema, check_metadata=True)
    assert batches[0].equals(batches[1])


def test_the_segment_holds_the_rows_that_are_current(service: Service) -> None:
    words = TEXTS if service.collection._bm25_analyzers else None
    service.call("Insert", _insert(words))
    service.call("Insert", _insert(words, KEYS + 2))  # Two keys again.
    memtable = service.collection._memtable
    rows = [(batch, row) for batch, row, _ in memtable._pk_index.values()]
    expected = [memtable._insert_batches[batch].slice(row, 1).to_pylist()[0] for batch, row in rows]
    table = patches._data_table(memtable, rows)
    assert table.schema.equals(memtable._data_schema)
    assert table.to_pylist() == [{name: row[name] for name in table.column_names} for row in expected]
    assert len(rows) == len(TEXTS) + 2


def test_flushed_rows_are_found_as_before(service: Service) -> None:
    has_words = bool(service.collection._bm25_analyzers)
    service.call("Insert", _insert(TEXTS if has_words else None))
    dense = search_request("c", schema.EMBEDDING, VECTORS[1:2], 3, schema.search_params(3), "", 0)
    lexical = search_request("c", schema.LEXICAL_SPARSE, ["검색"], 3, schema.lexical_search_params(), "", 0)
    requests = [dense, lexical] if has_words else [dense]
    before = [service.hits(request) for request in requests]
    assert [found[0][0] for found in before] == [KEYS[1], KEYS[0]][: len(requests)]
    service.collection.flush()
    assert [service.hits(request) for request in requests] == before


def test_an_insert_of_another_dimension_is_left_to_milvus_lite(service: Service) -> None:
    request = insert_request("c", KEYS, KEYS, VECTORS[:, :4], TEXTS if service.collection._bm25_analyzers else None)
    answer = service.calls.Insert(request, CONTEXT)
    assert answer.status.code
    assert "dim" in answer.status.reason
    assert service.collection.live_keys() == set()


def test_words_are_packed_as_milvus_lite_packs_them() -> None:
    for terms in ([], [7], [4_294_967_295, 3, 3, 0]):
        assert sparse_vector(terms) == sparse_to_bytes(compute_tf(terms))


def test_a_search_of_another_dimension_is_left_to_milvus_lite(service: Service) -> None:
    service.call("Insert", _insert(TEXTS if service.collection._bm25_analyzers else None))
    request = search_request("c", schema.EMBEDDING, VECTORS[:1, :4], 3, schema.search_params(3), "", 0)
    assert service.calls.Search(request, CONTEXT).status.code


def test_a_broken_index_file_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collection, "EXACT_ROWS", 1)
    service = Service(tmp_path, lexical=False)
    service.call("Insert", _insert(None))
    service.collection.flush()
    service.collection._wait_for_bg()
    service.lite.close()
    (index,) = tmp_path.glob("collections/c/partitions/*/indexes/*")
    whole = index.read_bytes()
    index.write_bytes(whole[: len(whole) // 2])
    service.open(tmp_path)
    service.call("LoadCollection", milvus_pb2.LoadCollectionRequest(collection_name="c"))
    request = search_request("c", schema.EMBEDDING, VECTORS[1:2], 1, schema.search_params(1), "", 0)
    assert [key for key, _ in service.hits(request)] == [KEYS[1]]
    assert index.read_bytes() == whole
    service.lite.close()


def test_a_small_segment_gets_no_index(service: Service, tmp_path: Path) -> None:
    service.call("Insert", _insert(TEXTS if service.collection._bm25_analyzers else None))
    service.collection.flush()
    service.collection._wait_for_bg()
    assert not list(tmp_path.glob("collections/c/partitions/*/indexes/*"))
