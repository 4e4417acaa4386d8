#!/usr/bin/env bash
# llama-index-core 0.14.25 (SimpleVectorStore).
#
# Guess: a range filter on a key that holds numbers skips a document which has a text there, as it skips one without
#   the key and as "==" and "!=" do.
# Seen: the query of all documents ends with a TypeError of Python, as soon as one document has another type there.
# Output:
#   with number, == 2020: []
#   with number, != 2020: ['number']
#   with number, >= 2020: ['number']
#   with none, == 2020: []
#   with none, != 2020: ['none', 'number']
#   with none, >= 2020: ['number']
#   with text, == 2020: []
#   with text, != 2020: ['none', 'number', 'text']
#   with text, >= 2020: TypeError: '>=' not supported between instances of 'str' and 'int'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check llama-index-core==0.14.25
cat >"$folder/probe.py" <<'PY'
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters, SimpleVectorStore
from llama_index.core.vector_stores import VectorStoreQuery

OPERATORS = (FilterOperator.EQ, FilterOperator.NE, FilterOperator.GTE)


def query(store, operator):
    filters = MetadataFilters(filters=[MetadataFilter(key="year", value=2020, operator=operator)])
    try:
        return store.query(VectorStoreQuery(query_embedding=[1.0, 0.0], similarity_top_k=9, filters=filters)).ids
    except TypeError as error:
        return f"TypeError: {error}"


store = SimpleVectorStore()
rows = {"number": {"year": 2021}, "none": {}, "text": {"year": "2021"}}
for name, metadata in rows.items():
    store.add([TextNode(id_=name, text=name, metadata=metadata, embedding=[1.0, 0.0])])
    for operator in OPERATORS:
        print(f"with {name}, {operator.value} 2020: {query(store, operator)}")
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" 2>"$folder/errors" | tee "$folder/out" || { cat "$folder/errors"; exit 1; }
diff "$folder/out" - <<'EXPECTED'
with number, == 2020: []
with number, != 2020: ['number']
with number, >= 2020: ['number']
with none, == 2020: []
with none, != 2020: ['none', 'number']
with none, >= 2020: ['number']
with text, == 2020: []
with text, != 2020: ['none', 'number', 'text']
with text, >= 2020: TypeError: '>=' not supported between instances of 'str' and 'int'
EXPECTED
