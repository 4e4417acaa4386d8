"""The contract as clients see it. A change of it must be meant:

.venv/bin/python -m tests.api.test_openapi > tests/api/openapi.json
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.api.openapi import LINKS
from app.main import create_app

SNAPSHOT = Path(__file__).with_name("openapi.json")


def current() -> str:
    return json.dumps(create_app().openapi(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def test_contract_is_the_one_of_the_snapshot() -> None:
    assert json.loads(current()) == json.loads(SNAPSHOT.read_text(encoding="utf-8")), __doc__


def operations() -> list[tuple[str, dict[str, Any]]]:
    return [
        (path, operation) for path, methods in create_app().openapi()["paths"].items() for operation in methods.values()
    ]


def test_every_operation_has_a_name_of_its_own_and_documents_its_errors() -> None:
    names = [operation["operationId"] for _, operation in operations()]
    assert len(set(names)) == len(names)
    for path, operation in operations():
        if not path.startswith(("/health", "/metrics")):
            problems = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
            assert {"422", "500", "503"} <= problems.keys(), path
            assert ("400" in problems) == ("requestBody" in operation), path
            assert all("application/problem+json" in answer["content"] for answer in problems.values()), path


def test_every_operation_is_described_with_an_example_of_what_it_needs() -> None:
    document = create_app().openapi()
    tags = {tag["name"] for tag in document["tags"]}
    for path, operation in operations():
        assert operation["description"], path
        assert set(operation["tags"]) <= tags, path
        for parameter in operation.get("parameters", ()):
            assert parameter["description"], (path, parameter["name"])
            assert not parameter["required"] or parameter["example"], (path, parameter["name"])
        if "requestBody" in operation:
            content = operation["requestBody"]["content"]
            if "application/json" in content:
                assert find(document, content["application/json"]["schema"]["$ref"])["examples"], path
            else:
                lines = content["application/x-ndjson"]["example"].splitlines()
                assert all(json.loads(line) for line in lines), path


def test_every_reference_and_link_leads_somewhere() -> None:
    document = create_app().openapi()
    found = re.findall(r'"\$ref": "([^"]+)"', json.dumps(document))
    assert "#/components/schemas/Problem" in found
    for reference in found:
        assert find(document, reference), reference
    parameters = {
        operation["operationId"]: {parameter["name"] for parameter in operation.get("parameters", ())}
        for _, operation in operations()
    }
    for name, links in LINKS.items():
        assert name in parameters
        for target, given in links.items():
            assert given.keys() <= parameters[target], target


JSON_VALUES = {("Existence", "value"), ("MetadataUpdates", "title"), ("MetadataUpdates", "metadata")}
"""Optional, and null there is a value that is refused."""


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every object of the document."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects(inner)


def requested(document: dict[str, Any]) -> set[str]:
    """The names of the schemas that a request may hold."""
    bodies: Any = [operation.get("requestBody") for _, operation in operations()]
    found: set[str] = set()
    while (
        new := {ref["$ref"].rpartition("/")[2] for ref in objects(bodies) if isinstance(ref.get("$ref"), str)} - found
    ):
        found |= new
        bodies = [document["components"]["schemas"][name] for name in new]
    return found


def test_bounds_have_the_names_that_clients_know() -> None:
    schemas = create_app().openapi()["components"]["schemas"]
    for schema in objects(schemas):
        if isinstance(schema.get("type"), str):
            assert not {"ge", "gt", "le", "lt"} & schema.keys(), schema
    assert schemas["ChunkIn"]["properties"]["chunk_index"] == {
        "type": "integer", "minimum": 0, "exclusiveMaximum": 65_536, "title": "Chunk Index",
        "description": "Position in the document. Each can be used once; gaps are allowed.",
    }  # fmt: skip


def test_clients_send_no_defaults_and_may_send_null() -> None:
    document = create_app().openapi()
    names = requested(document)
    assert {"CreateBot", "MetadataUpdates", "SearchQuery", "DocumentIn", "Equality"} <= names
    for name, schema in document["components"]["schemas"].items():
        for field, described in schema.get("properties", {}).items():
            assert "default" not in described, (name, field)
            if name in names and field not in schema.get("required", ()) and (name, field) not in JSON_VALUES:
                assert {"type": "null"} in described.get("anyOf", ()), (name, field)
    limit = document["components"]["schemas"]["SearchQuery"]["properties"]["limit"]
    assert limit["description"] == "Most results of a query. Default: 5."


def test_every_union_has_a_name() -> None:
    document = create_app().openapi()
    unions = [schema for schema in objects(document) if "discriminator" in schema]
    assert unions == [document["components"]["schemas"]["Filter"]]
    for name in ("SearchQuery", "SearchBatch"):
        described = document["components"]["schemas"][name]["properties"]["filter"]
        assert described["anyOf"] == [{"$ref": "#/components/schemas/Filter"}, {"type": "null"}]


def find(document: dict[str, Any], reference: str) -> Any:
    place: Any = document
    for step in reference.removeprefix("#/").split("/"):
        place = place[step]
    return place


if __name__ == "__main__":
    sys.stdout.write(current())
