"""Each route says which scope a key needs for it."""

from fastapi.routing import APIRoute, iter_route_contexts
from starlette.routing import Mount

from app.api.deps import OPEN, Admission, scope_of
from app.main import create_app
from tests.api.test_isolation import DIFY, STORES

MCP = {"/mcp", "/mcp/", "/mcp/{chat_bot_id}", "/mcp/{chat_bot_id}/"}
"""``tests/clients/test_mcp.py`` tests what their tools show to another account."""
INTEGRATION_READS = {DIFY, f"{DIFY}/", f"{STORES}/{{vector_store_id}}/search", *MCP}
OPEN_ROUTES = {"/health", "/health/ready", "/health/live", "/metrics", "/openapi.json", "/docs", "/redoc", "/console"}


def test_each_route_declares_its_scope() -> None:
    app = create_app()
    found: dict[str | None, set[str]] = {}
    for one in iter_route_contexts(app.routes):
        route = one.original_route
        if isinstance(route, Mount):
            assert route.path in ("/docs/assets", "/console/assets")
            continue
        assert isinstance(route, APIRoute)
        admissions = [one for one in route.dependencies if isinstance(one.dependency, Admission)]
        assert len(admissions) + (OPEN in route.dependencies) == 1, route.path
        for method in route.methods:
            found.setdefault(scope_of(route), set()).add(f"{method} {route.path}")
    assert {path.partition(" ")[2] for path in found[None]} == OPEN_ROUTES
    changing = {path for path in found["read"] if not path.startswith(("GET ", "HEAD "))}
    assert changing == {"POST /search/query", "POST /search/batch", "POST /v1/embeddings", "POST /v1/rerank",
                        "POST /data/documents/query", "POST /data/documents/facets",
                        "POST /collection/{chat_bot_id:bot}/warm",
                        *(f"POST {path}" for path in INTEGRATION_READS)}  # fmt: skip
    assert not any(path.startswith("GET ") for path in found["write"])
    assert found["operator"] == {
        "GET /keys",
        "POST /keys",
        "DELETE /keys/{prefix}",
        "PUT /quotas",
        "GET /errors",
    }
