"""/docs and /redoc as files; tests/browser looks at them in a browser."""

import re

import httpx
import pytest

PAGES = ("/docs", "/redoc")


@pytest.mark.parametrize("page", PAGES)
async def test_page_names_files_of_this_server_alone(client: httpx.AsyncClient, page: str) -> None:
    answer = await client.get(page)
    assert answer.headers["content-type"].startswith("text/html")
    named = [name for name in re.findall(r'(?:src|href)="([^"]*)"', answer.text) if name != "data:,"]
    assert len(named) == 3
    for name in named:
        assert name.startswith("docs/assets/")
        assert (await client.get(f"/{name}")).status_code == 200


@pytest.mark.parametrize("page", PAGES)
async def test_policy_lets_a_page_speak_to_its_own_server_alone(client: httpx.AsyncClient, page: str) -> None:
    policy = (await client.get(page)).headers["content-security-policy"]
    directives = dict(directive.split(" ", 1) for directive in policy.split("; "))
    assert directives.pop("default-src") == "'none'"
    assert directives.pop("script-src") == "'self'"
    assert directives.pop("connect-src") == "'self'"
    sources = {source for value in directives.values() for source in value.split()}
    assert sources == {"'none'", "'self'", "'unsafe-inline'", "data:", "blob:"}


async def test_files_outside_of_the_folders_are_not_served(client: httpx.AsyncClient) -> None:
    for path in ("/docs/assets/", "/docs/assets/../main.py", "/docs/assets/%2e%2e/main.py", "/docs/assets/none.js"):
        assert (await client.get(path)).status_code == 404
