"""/console as files; tests/browser looks at it in a browser."""

import re

import httpx
import pytest

from app.api.console import FOLDER
from app.config import Settings
from app.core.services import Services
from app.core.stores.postgres.database import Database
from tests.api.keys import make_key
from tests.conftest import in_process

IMPORT = re.compile(r"""(?:from|import)\s+"([^"]+)\"""")


async def test_the_page_names_files_of_this_server_alone(client: httpx.AsyncClient) -> None:
    answer = await client.get("/console")
    assert answer.headers["content-type"].startswith("text/html")
    named = re.findall(r'(?:src|href)="([^"]*)"', answer.text)
    assert len(named) == 4
    for name in named:
        assert name.startswith("console/assets/")
        assert (await client.get(f"/{name}")).status_code == 200
    assert "<style" not in answer.text
    assert re.findall(r"<script[^>]*>([^<]*)</script>", answer.text) == [""]


def test_each_module_is_there_and_used() -> None:
    modules = {path.name: IMPORT.findall(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.js")}
    imported = {name.removeprefix("./") for names in modules.values() for name in names}
    assert imported - {"vendor/preact-htm.js"} == modules.keys() - {"app.js"}
    assert max(len((FOLDER / name).read_text(encoding="utf-8").splitlines()) for name in modules) < 400
    assert (FOLDER / "vendor" / "preact-htm.js").exists()


async def test_the_policy_allows_this_server_alone(client: httpx.AsyncClient) -> None:
    policy = (await client.get("/console")).headers["content-security-policy"]
    directives = dict(directive.split(" ", 1) for directive in policy.split("; "))
    assert directives.pop("default-src") == "'none'"
    assert {source for value in directives.values() for source in value.split()} == {"'none'", "'self'"}


async def test_the_page_knows_whether_keys_are_required(services: Services, settings: Settings, db: Database) -> None:
    await make_key(db, "mine")
    for disabled, expected in ((True, "none"), (False, "required")):
        async with in_process(services, settings.model_copy(update={"auth_disabled": disabled})) as client:
            assert f'data-keys="{expected}"' in (await client.get("/console")).text


@pytest.mark.parametrize("path", ["/console", "/console/assets/app.js", "/docs/assets/console/app.js"])
async def test_it_can_be_switched_off(services: Services, settings: Settings, path: str) -> None:
    async with in_process(services, settings.model_copy(update={"console": "off"})) as client:
        answer = await client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_files_outside_of_the_folder_are_not_served(client: httpx.AsyncClient) -> None:
    for path in ("/console/assets/", "/console/assets/../docs/docs.html", "/console/assets/%2e%2e/docs/docs.html"):
        assert (await client.get(path)).status_code == 404
