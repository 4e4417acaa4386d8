"""API keys: who is let in, to what, and what is said to the others."""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
import pytest

from app.config import Settings
from app.core.access.api_keys import KEY
from app.core.services import Services
from app.core.stores.postgres.api_keys import KeyStore
from app.core.stores.postgres.database import Database
from app.main import create_app
from app.schemas.operation_rows import Scope
from app.utils.errors import DatabaseUnavailable, StartupError
from tests.api.keys import bearer, make_key
from tests.conftest import in_process, register

DOCUMENT = create_app().openapi()
OPEN = {"health", "ready", "live", "metrics"}
"""metrics: to this machine, which is where httpx calls from."""


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"auth_disabled": False, "api_key_cache_ttl": 300.0})


@pytest.fixture
async def key(db: Database) -> str:
    return await make_key(db, "mine")


@pytest.fixture
async def client(services: Services, settings: Settings, key: str) -> AsyncIterator[httpx.AsyncClient]:
    async with in_process(services, settings) as opened:
        yield opened


def refused(answer: httpx.Response, status: int, code: str, challenge: str = "") -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == answer.json()["request_id"]
    assert answer.headers.get("www-authenticate", "").startswith("Bearer") == (status in (401, 403))
    assert challenge in answer.headers.get("www-authenticate", "")


class Call(NamedTuple):
    name: str
    method: str
    path: str
    has_body: bool
    scope: str | None
    """That it takes, or that makes it say more."""


def calls() -> list[Call]:
    return [
        Call(
            operation["operationId"],
            method.upper(),
            path.format(
                chat_bot_id=uuid4(),
                session_id=uuid4(),
                job_id=uuid4(),
                prefix="cm_0a1b2c3d",
                doc_id=1,
                chunk_index=0,
                model="use-multilingual",
                stream_key="s",
            ),
            "requestBody" in operation,
            operation["security"][-1]["header"][0] if "security" in operation else None,
        )
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
    ]


# ------------------------------------------------------------------ who is let in


@pytest.mark.parametrize("call", calls(), ids=lambda call: call.name)
async def test_every_call_but_those_for_orchestrators_wants_a_key(client: httpx.AsyncClient, call: Call) -> None:
    body: dict[str, Any] = {"json": {}} if call.has_body else {}
    answer = await client.request(call.method, call.path, **body)
    if call.name in OPEN:
        assert answer.status_code == 200
        return
    refused(answer, 401, "unauthorized")
    error = answer.json().get("error", {})
    assert error.get("type") == ("authentication_error" if call.path.startswith("/v1/") else None)
    wrong = await client.request(call.method, call.path, headers=bearer("cm_x"), **body)
    refused(wrong, 401, "unauthorized", "invalid_token")
    # Without a body too, and however broken it is.
    refused(await client.request(call.method, call.path), 401, "unauthorized")
    refused(await client.request(call.method, call.path, content=b"{"), 401, "unauthorized")


async def test_a_key_is_taken_from_either_header(client: httpx.AsyncClient, key: str) -> None:
    for headers in (
        {"Authorization": f"Bearer {key}"},
        {"Authorization": f"bearer  {key} "},
        {"X-API-Key": key},
        {"X-API-Key": key, "Authorization": f"Bearer {key}"},
    ):
        assert (await client.get("/collection/list", headers=headers)).status_code == 200


async def test_two_different_keys_are_refused(client: httpx.AsyncClient, key: str, db: Database) -> None:
    other = await make_key(db, "mine")
    for headers in (
        [("X-API-Key", other), ("Authorization", f"Bearer {key}")],
        [("X-API-Key", key), ("X-API-Key", other)],
    ):
        refused(await client.get("/collection/list", headers=headers), 401, "unauthorized")


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda key: key[:-1],
        lambda key: key + "A",
        lambda key: key[:-1] + ("A" if key[-1] != "A" else "B"),
        lambda key: key[:11],
        lambda key: "cm_00000000" + key[11:],
        lambda key: key.upper(),
        lambda _: "",
        lambda _: "x" * 20_000,
        lambda _: "\xff\xfe",
    ],
)
async def test_what_is_nearly_a_key_is_none(client: httpx.AsyncClient, key: str, spoilt: Callable[[str], str]) -> None:
    assert (await client.get("/collection/list", headers={"X-API-Key": key})).status_code == 200
    headers = {"X-API-Key": spoilt(key).encode("latin-1")}
    refused(await client.get("/collection/list", headers=headers), 401, "unauthorized")


async def test_another_scheme_is_told_which_one_is_wanted(client: httpx.AsyncClient) -> None:
    answer = await client.get("/collection/list", headers={"Authorization": "Basic bWU6aGVyZQ=="})
    refused(answer, 401, "unauthorized", 'Bearer realm="chat-memory"')


async def test_a_key_that_expired_or_was_revoked_is_refused(
    services: Services, settings: Settings, db: Database, key: str
) -> None:
    async with in_process(services, settings.model_copy(update={"api_key_cache_ttl": 0.0})) as client:
        short = await make_key(db, "mine", expires_in=timedelta(microseconds=1))
        refused(await client.get("/collection/list", headers=bearer(short)), 401, "unauthorized")
    async with in_process(services, settings) as client:
        uncached = await make_key(db, "mine")
        assert await KeyStore(db).revoke(uncached[:11])
        refused(await client.get("/collection/list", headers=bearer(uncached)), 401, "unauthorized")


async def test_live_and_ready_answer_whatever_key_is_sent(client: httpx.AsyncClient) -> None:
    for path in ("/health/live", "/health/ready"):
        assert (await client.get(path, headers=bearer("wrong"))).status_code == 200


async def test_postgres_away_is_a_503_and_never_a_pass(
    client: httpx.AsyncClient, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise DatabaseUnavailable("PostgreSQL did not answer in time.")

    monkeypatch.setattr(KeyStore, "find", away)
    answer = await client.get("/collection/list", headers=bearer(key))
    refused(answer, 503, "database_unavailable")
    assert "retry-after" in answer.headers
    refused(await client.post("/search/query", json={}, headers=bearer(key)), 503, "database_unavailable")
    assert (await client.get("/health/live", headers=bearer(key))).status_code == 200


# ------------------------------------------------------------------ to what


RANKS: dict[Scope, int] = {"read": 0, "write": 1, "admin": 2, "operator": 3}


@pytest.mark.parametrize("scope", RANKS)
async def test_a_scope_includes_those_before_it(
    services: Services, settings: Settings, db: Database, scope: Scope
) -> None:
    own = bearer(await make_key(db, None if scope == "operator" else "mine", [scope]))
    async with in_process(services, settings) as client:
        client._transport.client = ("10.0.0.7", 1)  # type: ignore[attr-defined]
        for call in calls():
            body: dict[str, Any] = {"json": {}} if call.has_body else {}
            answer = await client.request(call.method, call.path, headers=own, **body)
            if call.scope is not None and RANKS[scope] < RANKS[call.scope]:  # type: ignore[index]
                refused(answer, 403, "forbidden", f'scope="{call.scope}"')
            else:
                assert answer.status_code not in (401, 403), (call, answer.text)


def test_what_each_scope_is_for() -> None:
    assert {call.name for call in calls() if call.scope == "read"} == {
        "list_collections",
        "list_models",
        "get_model",
        "get_collection",
        "export_collection",
        "get_stream",
        "get_stream_results",
        "get_document",
        "get_document_by_external_id",
        "list_documents",
        "list_jobs",
        "get_job",
        "get_own_key",
        "list_chunks",
        "get_chunk",
        "query_documents",
        "count_facets",
        "search",
        "search_batch",
        "create_embeddings",
        "rerank",
        "health",
        "ready",
        "get_usage",
        "warm_collection",
    }
    assert {call.name for call in calls() if call.scope == "admin"} == {"metrics"}
    assert {call.name for call in calls() if call.scope == "operator"} == {
        "list_keys",
        "create_key",
        "revoke_key",
        "list_errors",
        "set_quota",
    }
    assert {call.name for call in calls() if call.scope is None} == {"live"}


async def test_the_key_decides_the_account(client: httpx.AsyncClient, key: str) -> None:
    client.headers.update(bearer(key))
    bot = await register(client)
    assert (await client.get(f"/collection/{bot.bot_id}")).json()["account_name"] == "mine"
    named = await register(client, account_name="mine")
    assert (await client.get(f"/collection/{named.bot_id}")).json()["account_name"] == "mine"


async def test_health_names_dependencies_to_holders_of_a_key(services: Services, settings: Settings, key: str) -> None:
    async with in_process(services, settings.model_copy(update={"health_open": False})) as client:
        refused(await client.get("/health"), 401, "unauthorized")
        assert (await client.get("/health", headers=bearer(key))).json()["dependencies"]
        ready = await client.get("/health/ready")
        assert (ready.status_code, ready.json()["status"], ready.json()["dependencies"]) == (200, "ok", {})
        assert (await client.get("/health/ready", headers=bearer(key))).json()["dependencies"]


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/docs/assets/docs.css"])
async def test_docs_are_open_for_keys_or_off(services: Services, settings: Settings, key: str, path: str) -> None:
    statuses = {}
    for policy in ("open", "key", "off"):
        async with in_process(services, settings.model_copy(update={"docs": policy})) as client:
            answers = [await client.get(path), await client.get(path, headers=bearer(key))]
            statuses[policy] = [answer.status_code for answer in answers]
    is_file = "assets" in path
    expected = 404 if is_file and statuses["open"][0] == 404 else 200
    assert statuses == {"open": [expected] * 2, "key": [expected if is_file else 401, expected], "off": [404, 404]}


async def test_rates_are_counted_by_the_keys_account(
    services: Services, settings: Settings, key: str, db: Database
) -> None:
    other, same = await make_key(db, "other"), await make_key(db, "mine")
    async with in_process(services, settings.model_copy(update={"rate_limit": "2/hour"})) as client:

        async def status(key: str) -> int:
            return (await client.get("/collection/list", headers=bearer(key))).status_code

        assert [await status(key), await status(same), await status(key)] == [200, 200, 429]
        assert await status(other) == 200


async def test_an_account_above_its_rate_is_refused_before_its_body_is_read(
    services: Services, settings: Settings, key: str
) -> None:
    limits = {"rate_limit": "2/hour", "max_body_bytes": 1024}
    async with in_process(services, settings.model_copy(update=limits)) as client:

        async def status(size: int) -> int:
            return (await client.post("/search/query", content=b" " * size, headers=bearer(key))).status_code

        # Each counts once, whatever becomes of it.
        assert [await status(10), await status(2000), await status(2000)] == [422, 413, 429]


# ------------------------------------------------------------------ what is stored and said


async def test_a_key_has_256_random_bits_and_only_its_hash_is_stored(db: Database) -> None:
    made = {await make_key(db, "mine") for _ in range(20)}
    assert len({key[:11] for key in made}) == len({key[12:] for key in made}) == 20
    assert all(KEY.fullmatch(key) and len(key[12:]) == 43 for key in made)
    rows = await db.fetch("SELECT k::text AS row FROM api_keys k")
    assert len(rows) == 20
    for key in made:
        assert not any(key[12:] in row["row"] for row in rows)


async def test_no_key_stands_in_a_log_or_an_answer(
    services: Services, settings: Settings, db: Database, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = key[:12] + key[12:][::-1]
    unknown = f"cm_00000000_{'B' * 43}"
    read = await make_key(db, "mine", ["read"])
    said = ""
    async with in_process(services, settings.model_copy(update={"log_level": "DEBUG"})) as client:
        for one in (key, wrong, unknown, read):
            for headers in (bearer(one), {"X-API-Key": one}):
                answers = [
                    await client.get("/collection/list", headers=headers),
                    await client.post("/data/insert", json={"document": 1}, headers=headers),
                    await client.post("/search/query", content=b"{", headers=headers),
                    await client.get("/metrics", headers=headers),
                ]
                said += "".join(answer.text + str(answer.headers) for answer in answers)
    lines = capsys.readouterr().err
    assert "/collection/list" in lines
    for one in (key, wrong, unknown, read):
        assert one[12:] not in said + lines


# ------------------------------------------------------------------ failing closed


async def test_without_a_usable_key_the_server_does_not_start(
    services: Services, settings: Settings, db: Database
) -> None:
    async def refuses() -> bool:
        with pytest.raises(StartupError) as found:
            async with in_process(services, settings):
                pass
        line = str(found.value)
        return "\n" not in line and "python -m app.cli keys create" in line and "AUTH_DISABLED=true" in line

    assert await refuses()
    await make_key(db, "mine", expires_in=timedelta(microseconds=1))
    assert await refuses()
    key = await make_key(db, "mine")
    async with in_process(services, settings):
        pass
    await KeyStore(db).revoke(key[:11])
    assert await refuses()


async def test_without_authentication_the_server_warns(
    services: Services, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    async with in_process(services, settings.model_copy(update={"auth_disabled": True})):
        pass
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "AUTH_DISABLED" in line]
    assert "WARNING" in line
