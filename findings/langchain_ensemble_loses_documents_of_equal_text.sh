#!/usr/bin/env bash
# langchain-classic 1.0.8, langchain-core 1.8.3.
#
# Guess: EnsembleRetriever fuses the lists by the documents' ids, so two documents with equal text and different ids
#   both stay.
# Seen: without `id_key` it fuses by the text: of two documents with equal text, such as one clause in two
#   contracts, one is gone, with its metadata; the ids are not looked at.
# Output:
#   by default: ['A']
#   id_key of metadata: ['A', 'B']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check langchain-classic==1.0.8 langchain-core==1.8.3
cat >"$folder/probe.py" <<'PY'
from langchain_classic.retrievers import EnsembleRetriever
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever


class Fixed(BaseRetriever):
    documents: list

    def _get_relevant_documents(self, query, *, run_manager):
        return self.documents


same = "이 조항은 본 계약에 적용한다."
both = [Document(same, id="1", metadata={"contract": "A"}), Document(same, id="2", metadata={"contract": "B"})]
lists = [Fixed(documents=both), Fixed(documents=both)]
print("by default:", [d.metadata["contract"] for d in EnsembleRetriever(retrievers=lists, weights=[0.5, 0.5]).invoke("?")])
keyed = EnsembleRetriever(retrievers=lists, weights=[0.5, 0.5], id_key="contract")
print("id_key of metadata:", [d.metadata["contract"] for d in keyed.invoke("?")])
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" 2>"$folder/err" | tee "$folder/out" || { cat "$folder/err" >&2; exit 1; }
diff "$folder/out" - <<'EXPECTED'
by default: ['A']
id_key of metadata: ['A', 'B']
EXPECTED
