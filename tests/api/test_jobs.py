"""Jobs: work that goes on after the answer, who sees it, and what the death of its process leaves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from app.config import Settings
from app.core.connect import Stores
from app.core.operations import jobs as jobs_module
from app.core.services import Services, build_services
from app.core.stores.postgres.database import Database
from tests.api.keys import bearer, make_key
from tests.conftest import BotClient, in_process, register, until
from tests.doubles.hash_embedder import HashEmbedder
from tests.doubles.memory_index import MemoryIndex

ANSWERS = {"verify": "findings", "repair": "repaired", "rebuild": "chunks", "reembed": "changed", "reindex": "changed"}


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "BEAT_SECONDS", 0.02)


async def start(bot: BotClient, kind: str, **options: Any) -> dict[str, Any]:
    answer = await bot.http.post("/jobs", json={"kind": kind, "chat_bot_id": str(bot.bot_id), **options})
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


async def ended(http: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = {}

    async def over() -> bool:
        job.update((await http.get(f"/jobs/{job_id}")).json())
        return job["state"] != "running"

    await until(over)
    return job


@pytest.mark.parametrize("kind", ANSWERS)
async def test_each_kind_runs_to_its_end(bot: BotClient, kind: str) -> None:
    await bot.insert("경복궁은 화요일에 문을 닫는다", "남산에는 케이블카가 있다")
    job = await start(bot, kind)
    assert (job["state"], job["result"], job["ended_at"]) == ("running", None, None)
    job = await ended(bot.http, job["job_id"])
    assert (job["state"], job["error"]) == ("succeeded", None), job
    assert job["result"][ANSWERS[kind]] == (1 if kind == "reindex" else 0)
    assert job["ended_at"] >= job["created_at"]
    listed = (await bot.http.get("/jobs", params={"chat_bot_id": str(bot.bot_id)})).json()["jobs"]
    assert [one["job_id"] for one in listed] == [job["job_id"]]


async def test_what_verify_finds_repair_repairs(bot: BotClient, index: MemoryIndex) -> None:
    await bot.insert("a", "b")
    keys = [key async for page in index.scan(f"bot_{bot.bot_id.hex}") for key in page]
    await index.delete(f"bot_{bot.bot_id.hex}", keys[:1])
    found = (await ended(bot.http, (await start(bot, "verify"))["job_id"]))["result"]
    assert (found["findings"], found["by_kind"]) == (1, {"vector_lost": 1})
    assert found["first"][0]["chat_bot_id"] == str(bot.bot_id)
    repaired = (await ended(bot.http, (await start(bot, "repair", vectors=True))["job_id"]))["result"]
    assert (repaired["repaired"], repaired["findings"], repaired["failed_bots"]) == (1, 0, 0)


async def test_what_a_repair_has_made_is_not_counted_as_left(bot: BotClient, db: Database) -> None:
    await bot.insert("a")
    await db.execute(f"DROP TABLE documents_{bot.bot_id.hex}, document_chunks_{bot.bot_id.hex}")
    result = (await ended(bot.http, (await start(bot, "repair"))["job_id"]))["result"]
    assert (result["by_kind"], result["findings"]) == ({"partition_missing": 1, "vector_orphan": 1}, 0)


async def test_a_repair_of_all_bots_also_counts_what_is_left_of_none(
    bot: BotClient, services: Services, db: Database
) -> None:
    await db.execute("DELETE FROM bot_registry WHERE bot_id = $1", bot.bot_id)
    job = await services.jobs.start("repair", None, None, {})
    result = (await ended(bot.http, str(job.job_id)))["result"]
    assert (result["repaired"], result["findings"]) == (0, 2), "two partitions without a bot"


async def test_tuning(bot: BotClient) -> None:
    doc_id = await bot.insert("경복궁은 화요일에 문을 닫는다")
    questions = [{"question": "경복궁 화요일", "doc_id": doc_id}, {"question": "없는 것", "passage": "없다"}]
    job = await ended(bot.http, (await start(bot, "tune", questions=questions, apply=True))["job_id"])
    result = job["result"]
    assert (result["questions"], result["best"]["recall_at_1"], result["applied"]) == (2, 0.5, True)
    assert (len(result["measured"]), result["never_found"]) == (11, ["없는 것"])
    assert (job["done"], job["total"], job["unit"]) == (22, 22, "questions")
    assert (await bot.http.get(f"/collection/{bot.bot_id}")).json()["mode"] == result["best"]["mode"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"kind": "verify", "titles": True}, "verify has no option titles"),
        ({"kind": "tune"}, "tune needs questions"),
        ({"kind": "verify", "sample": 3}, "sample needs vectors"),
        ({"kind": "rebuild", "chat_bot_id": None}, "rebuild needs chat_bot_id"),
        ({"kind": "export"}, ""),
        ({"kind": "tune", "questions": [{"question": "a"}]}, "one of doc_id"),
        ({"kind": "tune", "questions": []}, ""),
    ],
)
async def test_bad_requests(bot: BotClient, body: dict[str, Any], reason: str) -> None:
    answer = await bot.http.post("/jobs", json={"chat_bot_id": str(bot.bot_id)} | body)
    assert answer.status_code == 422
    assert reason in answer.text
    assert (await bot.http.get("/jobs")).json()["jobs"] == []


class Stuck:
    """Work that waits until it is told to go on."""

    def __init__(self, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.go_on, self.cancelled = asyncio.Event(), asyncio.Event(), False
        monkeypatch.setattr(type(services.jobs._work), "verify", self._work)

    async def _work(self, *_: object) -> dict[str, Any]:
        self.entered.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return {}


async def test_one_of_a_kind_at_a_time_and_cancelling(
    bot: BotClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = Stuck(services, monkeypatch)
    job = await start(bot, "verify")
    await stuck.entered.wait()
    body = {"kind": "verify", "chat_bot_id": str(bot.bot_id)}
    answer = await bot.http.post("/jobs", json=body)
    assert (answer.status_code, answer.json()["code"]) == (409, "job_running")
    answer = await bot.http.delete(f"/jobs/{job['job_id']}")
    assert (answer.status_code, answer.json()["cancel_requested"]) == (200, True)
    job = await ended(bot.http, job["job_id"])
    assert (job["state"], job["result"], stuck.cancelled) == ("cancelled", None, True)
    again = await bot.http.delete(f"/jobs/{job['job_id']}")
    assert (again.status_code, again.json()["state"]) == (200, "cancelled")
    stuck.go_on.set()
    assert (await ended(bot.http, (await start(bot, "verify"))["job_id"]))["state"] == "succeeded"
    missing = await bot.http.get(f"/jobs/{uuid4()}")
    assert (missing.status_code, missing.json()["code"]) == (404, "job_not_found")


async def test_an_account_has_few_jobs_at_a_time(
    client: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    Stuck(services, monkeypatch)
    bots = [await register(client) for _ in range(jobs_module.MAX_RUNNING + 1)]
    for bot in bots[:-1]:
        await start(bot, "verify")
    answer = await client.post("/jobs", json={"kind": "verify", "chat_bot_id": str(bots[-1].bot_id)})
    assert (answer.status_code, answer.json()["code"]) == (429, "too_many_jobs")
    assert answer.headers["retry-after"] == "5"


async def test_an_error_of_the_server_shows_nothing_of_itself(
    bot: BotClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> dict[str, Any]:
        raise RuntimeError("secret")

    monkeypatch.setattr(type(services.jobs._work), "verify", broken)
    job = await ended(bot.http, (await start(bot, "verify"))["job_id"])
    assert (job["state"], job["error"]["code"]) == ("failed", "internal_error")
    assert "secret" not in str(job)


async def test_a_deleted_bot_takes_its_jobs_along(
    bot: BotClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = Stuck(services, monkeypatch)
    job = await start(bot, "verify")
    await stuck.entered.wait()
    assert (await bot.http.delete(f"/collection/{bot.bot_id}")).status_code == 200
    assert (await bot.http.get(f"/jobs/{job['job_id']}")).status_code == 404

    async def stopped() -> bool:
        return stuck.cancelled

    await until(stopped)


class TestTwoServers:
    @pytest.fixture
    async def others(
        self, db: Database, index: MemoryIndex, settings: Settings, services: Services
    ) -> AsyncIterator[tuple[Services, AsyncExitStack]]:
        """Another server over the same stores, and what stops it."""
        async with AsyncExitStack() as stack:
            stores = Stores(db, index, timedelta(0))
            yield await stack.enter_async_context(build_services(settings, stores, HashEmbedder())), stack

    async def test_a_stopped_server_leaves_its_jobs_interrupted(
        self, bot: BotClient, others: tuple[Services, AsyncExitStack], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other, stack = others
        stuck = Stuck(other, monkeypatch)
        job = await other.jobs.start("verify", bot.bot_id, None, {})
        await stuck.entered.wait()
        assert (await bot.http.get(f"/jobs/{job.job_id}")).json()["state"] == "running"
        await stack.aclose()
        assert (await bot.http.get(f"/jobs/{job.job_id}")).json()["state"] == "interrupted"
        stuck.go_on.set()
        assert (await ended(bot.http, (await start(bot, "verify"))["job_id"]))["state"] == "succeeded"

    async def test_after_the_death_of_its_process_a_job_can_be_started_again(
        self, bot: BotClient, others: tuple[Services, AsyncExitStack], db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other, _ = others
        stuck = Stuck(other, monkeypatch)
        job = await other.jobs.start("verify", bot.bot_id, None, {})
        await stuck.entered.wait()
        (task,) = other.jobs._running
        monkeypatch.setattr(other.jobs._store, "renew", hanging)
        await asyncio.sleep(0.05)
        await db.execute("UPDATE jobs SET lease_until = now() - interval '1 second' WHERE state = 'running'")
        assert (await bot.http.get(f"/jobs/{job.job_id}")).json()["state"] == "interrupted"
        stuck.go_on.set()
        again = await ended(bot.http, (await start(bot, "verify"))["job_id"])
        assert again["state"] == "succeeded"
        assert (await bot.http.get(f"/jobs/{job.job_id}")).json()["state"] == "interrupted"
        task.cancel()


async def hanging(*_: object) -> bool:
    await asyncio.sleep(60)
    return False


class TestAccounts:
    @pytest.fixture
    async def callers(
        self, services: Services, settings: Settings, db: Database
    ) -> AsyncIterator[dict[str, httpx.AsyncClient]]:
        keys = {name: await make_key(db, name) for name in ("mine", "theirs")}
        keys["reader"] = await make_key(db, "mine", ["read"])
        keys["operator"] = await make_key(db, None, ["operator"])
        async with in_process(services, settings.model_copy(update={"auth_disabled": False})) as client:
            yield {
                name: httpx.AsyncClient(transport=client._transport, base_url="http://server", headers=bearer(key))
                for name, key in keys.items()
            }

    async def test_an_account_sees_its_own_and_an_operator_all(self, callers: dict[str, httpx.AsyncClient]) -> None:
        mine, theirs, operator = callers["mine"], callers["theirs"], callers["operator"]
        bot = await register(mine, bot_name="mine")
        job = await start(bot, "verify")
        await ended(mine, job["job_id"])
        unknown = uuid4()
        for method in ("GET", "DELETE"):
            found = await theirs.request(method, f"/jobs/{job['job_id']}")
            missing = await theirs.request(method, f"/jobs/{unknown}")
            assert found.status_code == missing.status_code == 404
            assert found.json() | {"request_id": ""} == missing.json() | {"request_id": ""}
        assert (await theirs.get("/jobs")).json()["jobs"] == []
        answer = await theirs.post("/jobs", json={"kind": "verify", "chat_bot_id": str(bot.bot_id)})
        assert (answer.status_code, answer.json()["code"]) == (404, "bot_not_found")
        assert [one["job_id"] for one in (await operator.get("/jobs")).json()["jobs"]] == [job["job_id"]]
        assert (await callers["reader"].get(f"/jobs/{job['job_id']}")).status_code == 200
        answer = await callers["reader"].post("/jobs", json={"kind": "verify", "chat_bot_id": str(bot.bot_id)})
        assert answer.status_code == 403

    async def test_all_bots_are_an_operators(self, callers: dict[str, httpx.AsyncClient]) -> None:
        mine, operator = callers["mine"], callers["operator"]
        await register(mine, bot_name="one")
        await register(callers["theirs"], bot_name="two")
        answer = await mine.post("/jobs", json={"kind": "verify"})
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        answer = await operator.post("/jobs", json={"kind": "verify"})
        assert answer.status_code == 202
        job = await ended(operator, answer.json()["job_id"])
        assert (job["chat_bot_id"], job["done"], job["total"]) == (None, 2, 2)
        assert (await mine.get(f"/jobs/{job['job_id']}")).status_code == 404
        assert (await mine.get("/jobs")).json()["jobs"] == []

    async def test_keys(self, callers: dict[str, httpx.AsyncClient]) -> None:
        operator, mine = callers["operator"], callers["mine"]
        for name, account, scope in (
            ("mine", "mine", "write"),
            ("reader", "mine", "read"),
            ("operator", None, "operator"),
        ):
            own = (await callers[name].get("/keys/self")).json()
            assert own == {"status": "success", "account_name": account, "scope": scope}
        for method, path in (("GET", "/keys"), ("DELETE", "/keys/cm_0a1b2c3d")):
            assert (await mine.request(method, path)).status_code == 403
        body = {"account_name": "mine", "scope": "read", "note": "a test", "days": 1}
        assert (await mine.post("/keys", json=body)).status_code == 403
        created = await operator.post("/keys", json=body)
        assert created.status_code == 201
        key = created.json()["key"]
        assert (await mine.get("/collection/list", headers=bearer(key))).status_code == 200
        listed = (await operator.get("/keys", params={"account_name": "mine"})).json()["keys"]
        (new,) = [one for one in listed if one["prefix"] == key[:11]]
        assert (new["scopes"], new["note"], new["usable"]) == (["read"], "a test", True)
        assert key[12:] not in str(listed)
        assert (await operator.delete(f"/keys/{new['prefix']}")).status_code == 200
        assert (await operator.delete(f"/keys/{new['prefix']}")).status_code == 404
        for wrong in ("cm_%00a1b2c3d", "cm_", key, "%F0%9F%98%80"):
            assert (await operator.delete(f"/keys/{wrong}")).status_code == 422
        for note in ("\0", "x" * 257):
            assert (await operator.post("/keys", json=body | {"note": note})).status_code == 422
        for refused in ({"scope": "read"}, {"scope": "operator", "account_name": "mine"}, body | {"days": 0}):
            assert (await operator.post("/keys", json=refused)).status_code == 422

    async def test_an_operator_works_with_bots_of_every_account(self, callers: dict[str, httpx.AsyncClient]) -> None:
        names = ("mine", "theirs")
        bots = [(await register(callers[name], bot_name=name)).bot_id for name in names]
        listed = (await callers["operator"].get("/collection/list")).json()["bots"]
        assert [UUID(one["chat_bot_id"]) for one in listed] == bots
        assert await BotClient(callers["operator"], bots[1]).insert("text")
        answer = await callers["operator"].get(f"/collection/{bots[0]}", params={"account_name": "theirs"})
        assert answer.status_code == 404


async def test_without_keys_none_is_created(client: httpx.AsyncClient) -> None:
    answer = await client.post("/keys", json={"account_name": "mine", "scope": "read"})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert (await client.get("/keys")).json()["keys"] == []
