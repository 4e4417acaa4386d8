"""The OpenAPI document: what FastAPI generates from the routes, and what all routes have in common."""

import json
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic.json_schema import models_json_schema

from app.api.deps import scope_of
from app.api.error_forms import OPENAI_PATHS
from app.api.errors import PROBLEM_JSON, problem_response
from app.models.problem import OpenAIProblem, Problem
from app.schemas.operation_rows import Scope

DESCRIPTION = """\
A multi-tenant RAG backend for chatbots: register a bot, insert documents as metadata and text chunks, search them.

On a new server the examples work in this order: **Create collection**, **Insert document**, **Search**. Errors are
`application/problem+json` (RFC 9457) with a `code` for programs and a `detail` for people. Every response has the
request's id in the header `X-Request-Id`. Times named `..._ms` are in milliseconds."""

TAGS = [
    {"name": "collection", "description": "Bots. Each bot has its own Milvus collection and PostgreSQL partitions."},
    {"name": "data", "description": "Documents: metadata and text chunks."},
    {"name": "jobs", "description": "Work that goes on after the answer: checks, repairs, moves to another model."},
    {"name": "keys", "description": "API keys of all accounts, for operators."},
    {"name": "quotas", "description": "What accounts store, and what they may store."},
    {"name": "search", "description": "Searches in the documents of one bot."},
    {"name": "embeddings", "description": "The server's embedding model, compatible with OpenAI's API."},
    {"name": "rerank", "description": "The server's reranker, compatible with the APIs of Cohere and Jina."},
    {"name": "health", "description": "For orchestrators and load balancers."},
    {"name": "metrics", "description": "For Prometheus."},
]
DOC_ID = "$response.body#/doc_id"
OF_DOCUMENT = {"doc_id": DOC_ID, "chat_bot_id": "$request.body#/document/chat_bot_id"}
OF_BOT = {"chat_bot_id": "$response.body#/chat_bot_id"}
LINKS = {
    "create_collection": {"get_collection": OF_BOT, "delete_collection": OF_BOT, "list_documents": OF_BOT},
    "insert_document": {
        "get_document": OF_DOCUMENT,
        "replace_document": {"doc_id": DOC_ID},
        "patch_document_metadata": {"doc_id": DOC_ID},
        "delete_document": OF_DOCUMENT,
    },
}
"""Calls that take ids from a response with status 201."""
SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "Authorization: Bearer <API key>"},
    "header": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "The same API key in another header.",
    },
}
NO_KEY = frozenset({"live"})
OPTIONAL_KEY = {"health": "read", "ready": "read", "metrics": "admin"}
REF = "#/components/schemas/{model}"


def install(app: FastAPI) -> None:
    """Makes ``app.openapi()`` return the complete document."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign] # As FastAPI's documentation says


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes, tags=TAGS)
    scopes = {
        route.operation_id: scope_of(route)
        for one in iter_route_contexts(app.routes)
        if isinstance(route := one.original_route, APIRoute)
    }
    schemas = document["components"]["schemas"]
    models = models_json_schema([(Problem, "serialization"), (OpenAIProblem, "serialization")], ref_template=REF)
    schemas.update(models[1]["$defs"])
    for schema in schemas.values():
        _describe_defaults(schema)
    for path, methods in document["paths"].items():
        for operation in methods.values():
            operation["summary"] = operation["operationId"].replace("_", " ").capitalize()
            responses = operation["responses"]
            responses["500"] = problem_response(500)
            _secure(operation, scopes[operation["operationId"]])
            if "requestBody" in operation:
                responses["400"] = problem_response(400)
            if path.startswith(OPENAI_PATHS):
                for response in responses.values():
                    if PROBLEM_JSON in response["content"]:
                        response["content"] = {PROBLEM_JSON: {"schema": {"$ref": REF.format(model="OpenAIProblem")}}}
            operation["responses"] = dict(sorted(responses.items()))
            if links := LINKS.get(operation["operationId"]):
                responses["201"]["links"] = {
                    name: {"operationId": name, "parameters": parameters} for name, parameters in links.items()
                }
            for parameter in operation.get("parameters", ()):
                if examples := parameter["schema"].get("examples"):
                    parameter["example"] = examples[0]  # Swagger UI uses only this one.
    document["components"]["securitySchemes"] = SCHEMES
    return document


def _describe_defaults(schema: dict[str, Any]) -> None:
    """Moves each default into the description. Generated clients would send defaults, or require the fields."""
    for name, field in schema.get("properties", {}).items():
        default = field.pop("default", None)
        if name not in schema.get("required", ()) and default not in (None, ""):
            field["description"] = f"{field.get('description', '')} Default: {json.dumps(default)}.".strip()


def _secure(operation: dict[str, Any], declared: Scope | None) -> None:
    """Declares the API key that a call requires. An empty requirement means that the key is optional."""
    name = operation["operationId"]
    if name in NO_KEY:
        return
    scope = OPTIONAL_KEY.get(name, declared)
    assert scope is not None, f"{name} declares no scope"
    requirements: list[dict[str, list[str]]] = [{scheme: [scope]} for scheme in SCHEMES]
    if name in OPTIONAL_KEY:
        requirements.insert(0, {})
    else:
        operation["responses"] |= {status: problem_response(int(status)) for status in ("401", "403")}
    operation["security"] = requirements
