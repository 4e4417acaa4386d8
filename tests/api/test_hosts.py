"""By which names the server is called, and from whose pages."""

from collections.abc import AsyncIterator

import httpx
import pytest

from app.api.hosts import allowed_hosts
from app.config import Settings
from app.core.services import Services
from tests.conftest import in_process


@pytest.fixture
async def client(services: Services, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    guarded = settings.model_copy(update={"allowed_hosts": "rag.example, 10.0.0.5"})
    async with in_process(services, guarded) as opened:
        yield opened


async def ask(client: httpx.AsyncClient, method: str = "GET", path: str = "/collection/list", **headers: str) -> int:
    content = b"{}" if method == "POST" else None
    answer = await client.request(method, path, content=content, headers=headers | {"Content-Type": "application/json"})
    if answer.status_code == 403:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == ("origin_not_allowed" if "Origin" in headers else "host_not_allowed")
        assert "ALLOWED_HOSTS" in answer.json()["detail"]
    return answer.status_code


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:9", "[::1]", "[::1]:8000", "rag.example:443", "10.0.0.5"],
)
async def test_names_that_are_allowed(client: httpx.AsyncClient, host: str) -> None:
    assert await ask(client, Host=host) == 200
    assert await ask(client, "POST", "/search/query", Host=host) == 422
    assert await ask(client, Host=host, Origin=f"http://{host}") == 200


@pytest.mark.parametrize(
    "host", ["attacker.example", "localhost.attacker.example:8000", "127.0.0.1.nip.example", "user@evil", "[::1", ""]
)
async def test_other_names(client: httpx.AsyncClient, host: str) -> None:
    for path in ("/collection/list", "/metrics", "/docs", "/openapi.json", "/health", "/nothing"):
        assert await ask(client, path=path, Host=host) == 403
    assert await ask(client, "POST", "/search/query", Host=host) == 403
    for path in ("/health/live", "/health/ready"):
        assert await ask(client, path=path, Host=host) == 200


@pytest.mark.parametrize(
    "origin", ["https://attacker.example", "null", "http://localhost.attacker.example", "http://["]
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_pages_of_other_sites(client: httpx.AsyncClient, method: str, origin: str) -> None:
    assert await ask(client, method, "/search/query", Host="localhost", Origin=origin) == 403


def test_the_setting() -> None:
    assert allowed_hosts(None) is None
    assert allowed_hosts("a.example,*") is None
    names = allowed_hosts("A.example, [fe80::1]")
    assert names == frozenset(["a.example", "fe80::1", "localhost", "127.0.0.1", "::1"])


async def test_any_name_without_the_setting(services: Services, settings: Settings) -> None:
    async with in_process(services, settings) as open_to_all:
        assert await ask(open_to_all, Host="any.example", Origin="https://other.example") == 200
