"""PUT /quotas and GET /usage, and each way to store something at the edge of a quota."""

import asyncio
from typing import Any

import httpx
import orjson
import pytest

from app.config import Settings
from app.core.services import Services
from app.core.stores.postgres.database import Database
from app.core.transfer import streams as core_streams
from tests.api.keys import bearer, make_key
from tests.conftest import BotClient, in_process, register

CLIENTS = 8


async def set_quota(http: httpx.AsyncClient, account: str = "chatty", **limits: int | bool | None) -> dict[str, Any]:
    answer = await http.put("/quotas", json={"account_name": account, **limits})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def used(http: httpx.AsyncClient, account: str = "chatty") -> dict[str, int]:
    (found,) = (await http.get("/usage", params={"account_name": account})).json()["accounts"]
    counted: dict[str, int] = found["used"]
    return counted


def refused(answer: httpx.Response, name: str, used: int, limit: int, requested: int) -> None:
    assert (answer.status_code, answer.json()["code"]) == (403, "quota_exceeded"), answer.text
    quota = {"name": name, "used": used, "limit": limit, "requested": requested}
    assert answer.json()["quota"] == quota
    assert answer.json()["detail"].startswith(f"The account may have {limit} {name} and has {used}")


async def test_usage_with_and_without_a_quota(bot: BotClient) -> None:
    await bot.insert("a", "b")
    nothing = {"bots": None, "documents": None, "chunks": None}
    row = {"account_name": "chatty", "used": {"bots": 1, "documents": 1, "chunks": 2}, "quota": nothing}
    assert (await bot.http.get("/usage")).json() == {"status": "success", "accounts": [row]}
    answer = await set_quota(bot.http, documents=10)
    assert answer == {"status": "success", **row, "quota": {**nothing, "documents": 10}}
    await bot.insert("c")
    assert await used(bot.http) == {"bots": 1, "documents": 2, "chunks": 3}
    await set_quota(bot.http)
    assert await used(bot.http) == {"bots": 1, "documents": 2, "chunks": 3}
    assert await used(bot.http, "nobody") == {"bots": 0, "documents": 0, "chunks": 0}


@pytest.mark.parametrize("value", [-1, 1.5, "3", 2**63])
async def test_a_limit_is_a_number_of_things(client: httpx.AsyncClient, value: object) -> None:
    answer = await client.put("/quotas", json={"account_name": "a", "chunks": value})
    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, "body.chunks")


async def test_who_may_see_and_set_them(services: Services, settings: Settings, db: Database) -> None:
    operator = bearer(await make_key(db, None, ["operator"]))
    mine = {scope: bearer(await make_key(db, "mine", [scope])) for scope in ("read", "admin")}  # type: ignore[list-item]
    async with in_process(services, settings.model_copy(update={"auth_disabled": False})) as http:
        http.headers = httpx.Headers(operator)
        await set_quota(http, "mine", bots=3)
        await set_quota(http, "theirs", bots=1)
        everyone = (await http.get("/usage")).json()["accounts"]
        assert [one["account_name"] for one in everyone] == ["mine", "theirs"]
        own = await http.get("/usage", headers=mine["read"])
        assert own.json()["accounts"] == everyone[:1]
        other = await http.get("/usage", params={"account_name": "theirs"}, headers=mine["read"])
        assert (other.status_code, other.json()["code"]) == (404, "bot_not_found")
        body = {"account_name": "mine", "bots": 100}
        assert (await http.put("/quotas", json=body, headers=mine["admin"])).status_code == 403


async def test_single_writes_at_the_edge(bot: BotClient) -> None:
    """Nothing of what is refused is stored, and its Idempotency-Key is free."""
    await set_quota(bot.http, documents=2, chunks=4)
    first = await bot.insert("a", "b", external_id="x")
    key = {"Idempotency-Key": "k"}
    refused(await bot.http.post("/data/insert", json=bot.body("c", "d", "e"), headers=key), "chunks", 2, 4, 3)
    assert (await bot.http.post("/data/insert", json=bot.body("c"), headers=key)).status_code == 422  # Another body.
    second = await bot.insert("c")
    refused(await bot.http.post("/data/insert", json=bot.body("d")), "documents", 2, 2, 1)
    refused(await bot.http.put(f"/data/document/{second}", json=bot.body("c", "d", "e")), "chunks", 3, 4, 2)
    larger = await bot.http.put("/data/document", params={"external_id": "x"}, json=bot.body("1", "2", "3", "4"))
    refused(larger, "chunks", 3, 4, 2)
    upsert = bot.body("1", "2", "3", external_id="x") | {"on_conflict": "replace"}
    assert (await bot.http.post("/data/insert", json=upsert)).status_code in (200, 201)
    assert await used(bot.http) == {"bots": 1, "documents": 2, "chunks": 4}
    chunk = {"chat_bot_id": str(bot.bot_id), "text": "more"}
    refused(await bot.http.post(f"/data/document/{first}/chunks", json=chunk), "chunks", 4, 4, 1)
    assert (await bot.http.delete(f"/data/document/{first}", params={"chat_bot_id": str(bot.bot_id)})).is_success
    assert await used(bot.http) == {"bots": 1, "documents": 1, "chunks": 1}
    same = await bot.http.post("/data/insert", json=bot.body("c", "d", "e"), headers=key)
    assert same.status_code == 201, same.text
    assert (await bot.http.post("/data/insert", json=bot.body("c", "d", "e"), headers=key)).json() == same.json()


async def test_a_batch_stores_what_fits(bot: BotClient) -> None:
    other = await register(bot.http)
    await set_quota(bot.http, documents=3)
    documents = [one.body(f"text {number}") for number, one in enumerate([bot, other, bot, other])]
    answer = (await bot.http.post("/data/insert/batch", json={"documents": documents})).json()
    assert (answer["status"], answer["success_count"]) == ("partial", 3)
    assert [result["success"] for result in answer["results"]] == [True, True, True, False]
    assert answer["results"][3]["error"]["code"] == "quota_exceeded"
    whole = await bot.http.post("/data/insert/batch", json={"documents": documents[:2]})
    refused(whole, "documents", 3, 3, 1)
    assert await used(bot.http) == {"bots": 2, "documents": 3, "chunks": 3}


async def test_a_stream_stops_and_goes_on_when_there_is_room(bot: BotClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of a batch that does not fit are not stored as failed: they are loaded when they are sent again."""
    monkeypatch.setattr(core_streams, "BATCH_DOCUMENTS", 3)
    await set_quota(bot.http, documents=5)
    body = b"".join(orjson.dumps(bot.body(f"text {number}")) + b"\n" for number in range(9))
    params: dict[str, Any] = {"chat_bot_id": str(bot.bot_id), "stream_key": "load", "part": 1}
    answer = await bot.http.post("/data/insert/stream", params=params, content=body)
    assert (answer.status_code, answer.json()["code"]) == (403, "quota_exceeded"), answer.text
    assert answer.json()["progress"]["lines"] == 3
    assert await used(bot.http) == {"bots": 1, "documents": 3, "chunks": 3}
    await set_quota(bot.http, documents=9)
    answer = await bot.http.post("/data/insert/stream", params=params, content=body)
    assert (answer.status_code, answer.json()["stored"]) == (200, 9), answer.text
    assert (await used(bot.http))["documents"] == 9


async def test_a_synchronization_fits_when_what_is_missing_is_deleted(bot: BotClient) -> None:
    await bot.insert("a", external_id="old")
    await set_quota(bot.http, documents=1)

    async def synchronize() -> httpx.Response:
        named = {"chat_bot_id": str(bot.bot_id)}
        session = (await bot.http.post("/data/sync", json=named)).json()["session_id"]
        body = {"documents": [bot.body("b", external_id="new")]}
        answer = await bot.http.post(f"/data/sync/{session}/documents", params=named, json=body)
        end = await bot.http.post(f"/data/sync/{session}/finish", json=named | {"delete_missing": True})
        assert end.status_code == 200, end.text
        return answer

    refused(await synchronize(), "documents", 1, 1, 1)
    assert await used(bot.http) == {"bots": 1, "documents": 0, "chunks": 0}
    assert (await synchronize()).json()["success_count"] == 1
    assert await used(bot.http) == {"bots": 1, "documents": 1, "chunks": 1}


async def test_bots_and_vector_stores_at_the_edge(client: httpx.AsyncClient) -> None:
    bot = await register(client, account_name="chatty")
    await set_quota(client, bots=1, documents=1)
    same = {"chat_bot_id": str(bot.bot_id), "bot_name": "bot", "collection_name": f"bot_{bot.bot_id.hex}"}
    assert (await client.post("/collection/create", json=same)).status_code == 200
    refused(await client.post("/v1/vector_stores", json={"name": "store"}), "bots", 1, 1, 1)
    assert await used(client) == {"bots": 1, "documents": 0, "chunks": 0}
    assert (await client.delete(f"/collection/{bot.bot_id}")).status_code == 200
    assert (await client.post("/v1/vector_stores", json={"name": "store"})).is_success


async def test_eight_clients_at_the_edge(services: Services, bot: BotClient) -> None:
    """Of each kind of write as many succeed as there is room for, never more, while others make room."""
    bots = [bot, await register(bot.http)]
    await set_quota(bot.http, documents=20, chunks=31)

    async def work(number: int) -> list[int]:
        statuses = []
        for attempt in range(6):
            one, text = bots[(number + attempt) % 2], f"{number} {attempt}"
            if attempt % 3 == 1:
                body = {"documents": [one.body(text), one.body(text, "more")]}
                answer = await one.http.post("/data/insert/batch", json=body)
            else:
                answer = await one.http.post("/data/insert", json=one.body(text))
            statuses.append(answer.status_code)
            if attempt == 2 and answer.status_code == 201:
                named = {"chat_bot_id": str(one.bot_id)}
                deleted = await one.http.delete(f"/data/document/{answer.json()['doc_id']}", params=named)
                assert deleted.is_success
            now = await used(one.http)
            assert now["documents"] <= 20
            assert now["chunks"] <= 31
        return statuses

    statuses = [status for found in await asyncio.gather(*map(work, range(CLIENTS))) for status in found]
    assert set(statuses) <= {200, 201, 403}
    assert 403 in statuses
    counted = await used(bot.http)
    assert counted["documents"] == 20 or counted["chunks"] == 31
    await set_quota(bot.http)
    assert await used(bot.http) == counted
