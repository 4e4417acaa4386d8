"""GET /errors."""

import json
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from app.config import Settings
from app.core.services import Services
from app.core.stores.postgres.database import Database
from app.utils.recent_errors import RecentError, RecentErrors
from tests.api.keys import bearer, make_key
from tests.conftest import BotClient, in_process
from tests.doubles.memory_index import MemoryIndex


async def errors(client: httpx.AsyncClient, **params: str) -> list[dict[str, object]]:
    answer = await client.get("/errors", params=params)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, object]] = answer.json()["errors"]
    return found


async def test_an_error_is_found_by_its_request_id(
    bot: BotClient, index: MemoryIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "주민번호"
    missing = {"chat_bot_id": str(bot.bot_id), "title": secret}
    refused = await bot.http.post("/search/query", json=missing, headers={"X-Request-Id": "a.1"})
    assert refused.status_code == 422

    async def broken(*_args: object, **_options: object) -> None:
        raise RuntimeError(secret)

    monkeypatch.setattr(index, "search_dense", broken)
    body = {"chat_bot_id": str(bot.bot_id), "query_text": secret}
    await bot.insert("a")
    failed = await bot.http.post("/search/query", json=body)
    unknown = await bot.http.get(f"/{secret}")
    assert (failed.status_code, unknown.status_code) == (500, 404)

    found = await errors(bot.http)
    shown = [(one["method"], one["route"], one["http_status"], one["code"]) for one in found]
    assert shown == [
        ("GET", "unmatched", 404, "not_found"),
        ("POST", "/search/query", 500, "internal_error"),
        ("POST", "/search/query", 422, "invalid_input"),
    ]
    assert secret not in json.dumps(found, ensure_ascii=False)
    assert await errors(bot.http, request_id="a.1") == [found[2]]
    assert await errors(bot.http, request_id=failed.json()["request_id"]) == [found[1]]
    assert await errors(bot.http, server_only="true") == [found[1]]
    assert await errors(bot.http, limit="1") == [found[0]]
    assert await errors(bot.http, request_id="other") == []


async def test_only_an_operator_sees_them(services: Services, settings: Settings, db: Database) -> None:
    keys = {scope: await make_key(db, "mine", [scope]) for scope in ("read", "admin")}
    operator = await make_key(db, None, ["operator"])
    async with in_process(services, settings.model_copy(update={"auth_disabled": False})) as client:
        for key in keys.values():
            assert (await client.get("/errors", headers=bearer(key))).status_code == 403
        assert (await client.get("/errors")).status_code == 401
        client.headers.update(bearer(operator))
        assert [one["http_status"] for one in await errors(client)] == [401, 403, 403]


async def test_an_error_after_the_beginning_of_the_response(bot: BotClient) -> None:
    params = {"chat_bot_id": str(bot.bot_id), "stream_key": "load", "part": "1", "answer": "stream"}
    answer = await bot.http.post("/data/insert/stream", params=params, content=b"{")
    assert answer.status_code == 200
    (found,) = await errors(bot.http)
    assert (found["http_status"], found["code"]) == (400, "malformed_body")
    assert found["request_id"] == answer.headers["x-request-id"]


def test_refusals_do_not_push_out_errors_of_the_server() -> None:
    recent, now = RecentErrors(kept=3), datetime.now(UTC)
    for number, status in enumerate((500, 503, *(429,) * 10)):
        recent.add(RecentError(f"r{number}", now + timedelta(seconds=number), "GET", "/", status, None))
    assert [one.request_id for one in recent.find(None, 100)] == ["r11", "r10", "r9", "r1", "r0"]
