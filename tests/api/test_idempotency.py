"""Idempotency-Key: one effect and the same answer, whatever becomes of the first request."""

import asyncio
import json
import re
from datetime import timedelta
from uuid import uuid4

import httpx
import pytest

from app.core.stores.postgres.database import Database
from app.core.stores.postgres.idempotency import IdempotencyStore
from app.utils.errors import EmbedderUnavailable
from app.utils.failpoints import install
from tests.conftest import BotClient, register, until


def keyed() -> dict[str, str]:
    return {"Idempotency-Key": str(uuid4())}


async def titles(bot: BotClient) -> list[str]:
    answer = await bot.http.get("/data/documents", params={"chat_bot_id": str(bot.bot_id)})
    return [document["title"] for document in answer.json()["documents"]]


async def test_the_same_insert_twice_is_one_document_and_one_answer(bot: BotClient) -> None:
    headers, body = keyed(), bot.body("한강은 서울을 흐른다")
    first = await bot.http.post("/data/insert", json=body, headers=headers)
    second = await bot.http.post("/data/insert", json=body, headers=headers)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.content == second.content
    assert "Idempotency-Replayed" not in first.headers
    assert second.headers["Idempotency-Replayed"] == "true"
    assert first.headers["content-type"] == second.headers["content-type"] == "application/json"
    assert first.json()["postgres_insert_time_ms"] > 0
    assert await titles(bot) == ["title"]
    other = await bot.http.post("/data/insert", json=body, headers=keyed())
    assert other.json()["doc_id"] != first.json()["doc_id"]


@pytest.mark.parametrize("path", ["/data/insert", "/data/insert/batch"])
async def test_the_fast_path_and_fastapi_share_keys(bot: BotClient, path: str) -> None:
    """FastRoute leaves a content type with a parameter to FastAPI."""
    document = bot.body("경복궁", "한강", metadata={"n": 1.5}, tags=["x"])
    body = json.dumps(document if path == "/data/insert" else {"documents": [document]})
    types = ["application/json", "application/json; charset=utf-8"]
    answers = []
    for first, second in (types, types[::-1]):
        headers = keyed()
        answers += [
            await bot.http.post(path, content=body, headers={**headers, "content-type": type})
            for type in (first, second)
        ]
        assert "Idempotency-Replayed" not in answers[-2].headers
        assert answers[-1].headers["Idempotency-Replayed"] == "true"
        assert answers[-1].content == answers[-2].content
    assert len({answer.status_code for answer in answers}) == 1
    shapes = {re.sub(r'(_ms|doc_id)":[0-9.]+', "", answer.text) for answer in answers}
    assert len(shapes) == 1
    assert await titles(bot) == ["title", "title"]


async def test_a_batch_and_a_replacement(client: httpx.AsyncClient, bot: BotClient) -> None:
    headers = keyed()
    batch = {"documents": [bot.body("a", title="a"), bot.body("b", title="b")]}
    batch["documents"][1]["document"]["chat_bot_id"] = str(uuid4())  # type: ignore[index]
    first, second = [await client.post("/data/insert/batch", json=batch, headers=headers) for _ in range(2)]
    assert first.json()["status"] == "partial"
    assert first.content == second.content
    assert await titles(bot) == ["a"]

    doc_id, headers, body = first.json()["results"][0]["doc_id"], keyed(), bot.body("new", "newer", title="new")
    path = f"/data/document/{doc_id}"
    replaced, again = [await client.put(path, json=body, headers=headers) for _ in range(2)]
    assert (replaced.status_code, replaced.json()["deleted_chunks"]) == (200, 1)
    assert replaced.content == again.content


@pytest.mark.parametrize("change", ["body", "path"])
async def test_another_request_under_the_key_is_refused(bot: BotClient, change: str) -> None:
    headers, body = keyed(), bot.body("a")
    first = await bot.http.post("/data/insert", json=body, headers=headers)
    if change == "body":
        second = await bot.http.post("/data/insert", json=bot.body("b"), headers=headers)
    else:
        second = await bot.http.put(f"/data/document/{first.json()['doc_id']}", json=body, headers=headers)
    assert (second.status_code, second.json()["code"]) == (422, "idempotency_key_reused")
    assert await titles(bot) == ["title"]


async def test_a_key_belongs_to_one_account(client: httpx.AsyncClient) -> None:
    headers = keyed()
    mine, theirs = await register(client, account_name="mine"), await register(client, account_name="theirs")
    for bot, account in ((mine, "mine"), (theirs, "theirs")):
        body = {"account_name": account, **bot.body("a")}
        assert (await client.post("/data/insert", json=body, headers=headers)).status_code == 201
        assert await titles(bot) == ["title"]


async def test_sixteen_at_once_have_one_effect(bot: BotClient) -> None:
    headers, body = keyed(), bot.body("a")
    answers = await asyncio.gather(*(bot.http.post("/data/insert", json=body, headers=headers) for _ in range(16)))
    done = [answer for answer in answers if answer.status_code == 201]
    refused = [answer for answer in answers if answer.status_code != 201]
    assert done
    assert len({answer.content for answer in done}) == 1
    assert {(answer.status_code, answer.json()["code"]) for answer in refused} <= {(409, "request_in_flight")}
    assert all(answer.headers["Retry-After"] == "1" for answer in refused)
    assert await titles(bot) == ["title"]


@pytest.mark.parametrize("point", ["write.after_t1", "write.before_t2", "write.after_t2"])
async def test_a_request_that_dies_can_be_sent_again(bot: BotClient, point: str) -> None:
    class Death(BaseException):
        """Runs past every handler of ours, as a kill would."""

    async def die(reached: str) -> None:
        if reached == point:
            raise Death

    headers, body = keyed(), bot.body("a")
    remove = install(die)
    with pytest.raises(Death):
        await bot.http.post("/data/insert", json=body, headers=headers)
    remove()

    async def sent_again() -> bool:
        answer = await bot.http.post("/data/insert", json=body, headers=headers)
        if answer.status_code == 409:
            assert answer.json()["code"] == "request_in_flight"
            return False
        assert answer.status_code == 201, answer.text
        return True

    await until(sent_again)
    assert await titles(bot) == ["title"]
    assert len(await bot.search("a")) == 1


async def test_a_failure_is_not_kept(bot: BotClient, embedder, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    headers, body = keyed(), bot.body("a")

    async def away(texts: object) -> object:
        raise EmbedderUnavailable("The embedder is away.")

    with monkeypatch.context() as patched:
        patched.setattr(embedder, "embed_documents", away)
        assert (await bot.http.post("/data/insert", json=body, headers=headers)).status_code == 503
    assert (await bot.http.post("/data/insert", json=body, headers=headers)).status_code == 201
    assert await titles(bot) == ["title"]


async def test_an_answer_outlives_its_bot_and_is_swept_in_time(bot: BotClient, db: Database) -> None:
    headers, body = keyed(), bot.body("a")
    first = await bot.http.post("/data/insert", json=body, headers=headers)
    await bot.http.delete(f"/collection/{bot.bot_id}")
    assert (await bot.http.post("/data/insert", json=body, headers=headers)).content == first.content

    await IdempotencyStore(db, timedelta(hours=1)).sweep()
    assert (await bot.http.post("/data/insert", json=body, headers=headers)).status_code == 201
    await IdempotencyStore(db, timedelta(0)).sweep()
    assert (await bot.http.post("/data/insert", json=body, headers=headers)).status_code == 404


@pytest.mark.parametrize("key", ["", "x" * 256, "with blank", "é".encode("latin-1")])
async def test_a_key_that_is_none(bot: BotClient, key: str | bytes) -> None:
    answer = await bot.http.post("/data/insert", json=bot.body("a"), headers={"Idempotency-Key": key})  # type: ignore[dict-item]
    assert answer.status_code == 422, answer.text
    assert "Idempotency-Key" in answer.json()["detail"]
    assert await titles(bot) == []
