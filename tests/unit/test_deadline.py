"""Which calls may take INGEST_TIMEOUT: those that embed many texts, or wait for a collection."""

import pytest

from app.api.deadline import _is_long


@pytest.mark.parametrize(
    ("method", "path", "is_long"),
    [
        ("POST", "/v1/vector_stores", True),
        ("DELETE", "/v1/vector_stores/vs_0", True),
        ("POST", "/v1/vector_stores/vs_0", False),
        ("POST", "/v1/vector_stores/vs_0/search", False),
        ("GET", "/v1/vector_stores", False),
        ("POST", "/mcp", True),
        ("POST", "/integrations/dify/retrieval", False),
        ("POST", "/search/query", False),
        ("POST", "/data/insert", True),
        ("PUT", "/data/document/1", True),
        ("DELETE", "/collection/7f3c1e9a-2b4d-4c6e-8f10-1a2b3c4d5e6f", True),
    ],
)
def test_long_calls(method: str, path: str, is_long: bool) -> None:
    assert _is_long({"type": "http", "method": method, "path": path}) is is_long
