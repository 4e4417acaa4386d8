"""The contract as clients see it. A change of it must be meant:

.venv/bin/python -m tests.api.test_openapi > tests/api/openapi.json
"""

import json
import sys
from pathlib import Path

from app.main import create_app

SNAPSHOT = Path(__file__).with_name("openapi.json")


def current() -> str:
    return json.dumps(create_app().openapi(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def test_contract_is_the_one_of_the_snapshot() -> None:
    assert json.loads(current()) == json.loads(SNAPSHOT.read_text(encoding="utf-8")), __doc__


def test_every_operation_has_a_name_of_its_own_and_documents_its_errors() -> None:
    operations = [
        (path, operation) for path, methods in create_app().openapi()["paths"].items() for operation in methods.values()
    ]
    names = [operation["operationId"] for _, operation in operations]
    assert len(set(names)) == len(names)
    for path, operation in operations:
        if not path.startswith(("/health", "/metrics")):
            problems = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
            assert {"422", "503"} <= problems.keys(), path
            assert all("application/problem+json" in answer["content"] for answer in problems.values()), path


if __name__ == "__main__":
    sys.stdout.write(current())
