"""A method that a path does not take: 405, and Allow names those that it does."""

import httpx
import pytest


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("OPTIONS", "/collection/7f3c1e9a-2b4d-4c6e-8f10-1a2b3c4d5e6f", "GET, PATCH, DELETE"),
        ("POST", "/data/document/1", "GET, PUT, DELETE"),
        ("GET", "/collection/create", "POST"),
        ("DELETE", "/collection/list", "GET"),
        ("GET", "/data/document/delete/batch", "POST"),
        ("DELETE", "/search/query", "POST"),
        ("POST", "/docs", "GET"),
    ],
)
async def test_method_not_allowed(client: httpx.AsyncClient, method: str, path: str, allow: str) -> None:
    answer = await client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allow)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "method_not_allowed"
