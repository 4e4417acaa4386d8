"""ETag, If-Match and If-None-Match on documents and their chunks."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.core.stores.postgres.database import Database
from app.utils.failpoints import install
from tests.conftest import BotClient

ID = "guide/1.md"
OTHER = '"0-0"'


class Resource:
    """One document: the calls on it by doc_id, or by external_id."""

    def __init__(self, bot: BotClient, doc_id: int, *, by_external_id: bool) -> None:
        self.bot, self.doc_id = bot, doc_id
        self.path = "/data/document" if by_external_id else f"/data/document/{doc_id}"
        self.params = {"external_id": ID} if by_external_id else {}
        self.of_bot = {"chat_bot_id": str(bot.bot_id)}

    async def get(self, **headers: str) -> httpx.Response:
        params = {**self.of_bot, **self.params}
        return await self.bot.http.get(self.path, params=params, headers=named(headers))

    async def put(self, *texts: str, **headers: str) -> httpx.Response:
        body = self.bot.body(*texts)
        return await self.bot.http.put(self.path, params=self.params, json=body, headers=named(headers))

    async def patch(self, updates: dict[str, Any], **headers: str) -> httpx.Response:
        body = {**self.of_bot, "metadata_updates": updates}
        path = f"{self.path}/metadata"
        return await self.bot.http.patch(path, params=self.params, json=body, headers=named(headers))

    async def delete(self, **headers: str) -> httpx.Response:
        params = {**self.of_bot, **self.params}
        return await self.bot.http.delete(self.path, params=params, headers=named(headers))

    async def chunk(self, method: str, index: int | None, text: str | None = None, **headers: str) -> httpx.Response:
        path = f"/data/document/{self.doc_id}/chunks" + ("" if index is None else f"/{index}")
        if text is None:
            return await self.bot.http.request(method, path, params=self.of_bot, headers=named(headers))
        return await self.bot.http.request(method, path, json={**self.of_bot, "text": text}, headers=named(headers))


def named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@pytest.fixture(params=["doc_id", "external_id"])
async def either(bot: BotClient, request: pytest.FixtureRequest) -> Resource:
    doc_id = await bot.insert("one", "two", external_id=ID)
    return Resource(bot, doc_id, by_external_id=request.param == "external_id")


@pytest.fixture
async def document(bot: BotClient) -> Resource:
    return Resource(bot, await bot.insert("one", "two", external_id=ID), by_external_id=False)


def failed(answer: httpx.Response) -> str | None:
    """The ETag of a 412."""
    assert (answer.status_code, answer.json()["code"]) == (412, "precondition_failed"), answer.text
    return answer.headers.get("ETag")


async def test_each_change_has_another_etag_which_its_answer_tells(document: Resource) -> None:
    inserted = await document.bot.http.post("/data/insert", json=document.bot.body("x", external_id="another"))
    other = Resource(document.bot, inserted.json()["doc_id"], by_external_id=False)
    assert (await other.get()).headers["ETag"] == inserted.headers["ETag"]
    seen = [(await document.get()).headers["ETag"]]

    async def changed(call: Any) -> None:
        answer = await call
        assert answer.is_success, answer.text
        seen.append(answer.headers["ETag"])
        assert (await document.get()).headers["ETag"] == seen[-1]

    await changed(document.put("one", "two"))
    await changed(document.put("one", "two"))
    await changed(document.patch({"a": 1}))
    await changed(document.patch({"a": None}))
    await changed(document.patch({"title": "new"}))
    await changed(document.patch({"title": "title"}))
    await changed(document.chunk("PUT", 0, "changed"))
    await changed(document.chunk("PUT", 0, "one"))
    await changed(document.chunk("POST", None, "three"))
    await changed(document.chunk("DELETE", 2))
    for path in (document.chunk("GET", None), document.chunk("GET", 1)):
        assert (await path).headers["ETag"] == seen[-1]
    assert len(set(seen)) == len(seen)
    assert all(etag.startswith('"') and etag.endswith('"') for etag in seen)


async def test_if_match_lets_only_its_version_be_changed(either: Resource) -> None:
    etag = (await either.get()).headers["ETag"]
    stale = [
        either.put("x", If_Match=OTHER),
        either.patch({"a": 1}, If_Match=OTHER),
        either.patch({"title": "x"}, If_Match=OTHER),
        either.delete(If_Match=OTHER),
        either.chunk("PUT", 0, "x", If_Match=OTHER),
        either.chunk("POST", None, "x", If_Match=OTHER),
        either.chunk("DELETE", 0, If_Match=OTHER),
    ]
    before = (await either.get()).content
    for call in stale:
        assert failed(await call) == etag
    assert (await either.get()).content == before
    for call in (
        lambda tag: either.put("one", "two", If_Match=tag),
        lambda tag: either.patch({"a": 1}, If_Match=tag),
        lambda tag: either.patch({"title": "new"}, If_Match=tag),
        lambda tag: either.chunk("PUT", 0, "x", If_Match=tag),
        lambda tag: either.chunk("POST", None, "x", If_Match=tag),
        lambda tag: either.chunk("DELETE", 0, If_Match=tag),
    ):
        old, answer = etag, await call(etag)
        assert answer.is_success, answer.text
        etag = answer.headers["ETag"]
        assert failed(await call(old)) == etag
    assert (await either.delete(If_Match=etag)).status_code == 200


async def test_forms_of_if_match(document: Resource) -> None:
    etag = (await document.get()).headers["ETag"]
    for wrong in (f"W/{etag}", f'{OTHER}, W/{etag}, ""', '"*"', OTHER):
        assert failed(await document.patch({"a": 1}, If_Match=wrong)) == etag
    for right in ("*", "{other},{etag}", " , {other} ,, W/{other}\t, {etag},", '"a,b", {etag}'):
        answer = await document.patch({"a": 1}, If_Match=right.format(other=OTHER, etag=etag))
        assert answer.status_code == 200, answer.text
        etag = answer.headers["ETag"]
    lines = [("If-Match", OTHER), ("If-Match", etag)]
    answer = await document.bot.http.get(document.path, params={**document.of_bot, **document.params}, headers=lines)
    assert answer.status_code == 200
    for bad in (etag.strip('"'), f"{etag} {OTHER}", f"*, {etag}", "", " , ", '"a', f"w/{etag}"):
        answer = await document.patch({"a": 1}, If_Match=bad)
        assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, "header.If-Match"), bad


async def test_a_read_of_a_known_version_is_a_304(document: Resource) -> None:
    etag = (await document.get()).headers["ETag"]
    for known in (etag, f"W/{etag}", f"{OTHER}, {etag}", "*"):
        for answer in (
            await document.get(If_None_Match=known),
            await document.chunk("GET", None, If_None_Match=known),
            await document.chunk("GET", 1, If_None_Match=known),
        ):
            assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", etag)
            assert "content-type" not in answer.headers
    assert (await document.get(If_None_Match=OTHER)).status_code == 200
    assert (await document.chunk("GET", 9, If_None_Match="*")).status_code == 404
    assert failed(await document.get(If_Match=OTHER)) == etag
    assert (await document.get(If_Match=etag)).status_code == 200
    assert (await document.get(If_Match=etag, If_None_Match=etag)).status_code == 304
    await document.patch({"a": 1})
    assert (await document.get(If_None_Match=etag)).json()["document"]["metadata"] == {"a": 1}


async def test_put_by_external_id_creates_only_or_replaces_only(bot: BotClient) -> None:
    one = Resource(bot, 0, by_external_id=True)
    for absent in ("*", OTHER):
        assert failed(await one.put("a", If_Match=absent)) is None
    created = await one.put("a", If_None_Match="*")
    assert created.status_code == 201
    assert failed(await one.put("b", If_None_Match="*")) == created.headers["ETag"]
    replaced = await one.put("b", If_Match="*")
    assert (replaced.status_code, replaced.json()["result"]) == (200, "replaced")
    # Not if it is the version named, as RFC 9110 says of methods other than GET.
    assert failed(await one.put("c", If_None_Match=replaced.headers["ETag"])) == replaced.headers["ETag"]
    assert (await one.put("c", If_None_Match=OTHER)).status_code == 200


async def test_of_concurrent_creations_one_creates(bot: BotClient) -> None:
    one = Resource(bot, 0, by_external_id=True)
    answers = await asyncio.gather(*(one.put(f"v{number}", If_None_Match="*") for number in range(8)))
    created = [answer for answer in answers if answer.status_code == 201]
    assert len(created) == 1
    assert {answer.status_code for answer in answers} == {201, 412}


async def test_a_document_that_is_gone(either: Resource) -> None:
    await either.delete()
    by_external_id = bool(either.params)
    for call in (
        either.get(If_Match="*"),
        either.patch({"a": 1}, If_Match=OTHER),
        either.delete(If_Match="*"),
        either.chunk("PUT", 0, "x", If_Match="*"),
        *([] if by_external_id else [either.put("x", If_Match="*")]),
    ):
        answer = await call
        assert (answer.status_code, answer.json()["code"]) == (404, "document_not_found")


@pytest.mark.parametrize("how", ["patch", "put", "delete"])
async def test_a_change_during_a_write_is_found_in_t2(bot: BotClient, how: str) -> None:
    document = Resource(bot, await bot.insert("one", "two", external_id=ID), by_external_id=how != "put")
    etag = (await document.get()).headers["ETag"]
    later: list[httpx.Response] = []

    async def interfere(point: str) -> None:
        if point == "write.before_t2" and not later:
            later.append(httpx.Response(0))
            by_doc_id = Resource(document.bot, document.doc_id, by_external_id=False)
            calls: dict[str, Callable[[], Any]] = {
                "patch": lambda: by_doc_id.patch({"other": 1}),
                "put": lambda: by_doc_id.put("other"),
                "delete": by_doc_id.delete,
            }
            later[0] = await calls[how]()
            assert later[0].status_code == 200, later[0].text

    remove = install(interfere)
    try:
        answer = await document.put("mine", If_Match=etag)
    finally:
        remove()
    assert failed(answer) == later[0].headers.get("ETag")
    if how == "delete":
        assert (await document.get()).status_code == 404
    else:
        kept = (await document.get()).json()
        assert [chunk["text"] for chunk in kept["chunks"]] == (["other"] if how == "put" else ["one", "two"])


async def test_a_replay_is_no_412(either: Resource) -> None:
    """The first request has changed the version that If-Match names."""
    etag = (await either.get()).headers["ETag"]
    key = str(uuid4())
    first = await either.put("new", If_Match=etag, Idempotency_Key=key)
    again = await either.put("new", If_Match=etag, Idempotency_Key=key)
    assert (first.status_code, again.status_code) == (200, 200)
    assert (first.content, again.headers["Idempotency-Replayed"]) == (again.content, "true")
    assert "ETag" not in again.headers
    other = await either.put("new", If_Match="*", Idempotency_Key=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    fresh = str(uuid4())
    assert failed(await either.put("x", If_Match=etag, Idempotency_Key=fresh)) == first.headers["ETag"]


async def test_read_modify_write_loses_no_update(document: Resource) -> None:
    """Each client adds its own key to the metadata by PUT, and begins again after a 412 or a conflict."""

    async def add(name: str) -> int:
        attempts = 0
        while True:
            attempts += 1
            read = await document.get()
            body = document.bot.body("one", "two", metadata=read.json()["document"]["metadata"] | {name: True})
            headers = {"If-Match": read.headers["ETag"]}
            answer = await document.bot.http.put(document.path, params=document.params, json=body, headers=headers)
            if answer.status_code == 200:
                return attempts
            assert answer.json()["code"] in ("precondition_failed", "document_changed", "external_id_in_flight")

    names = [f"client {number}" for number in range(6)]
    attempts = await asyncio.gather(*map(add, names))
    assert sum(attempts) > len(names)
    assert sorted((await document.get()).json()["document"]["metadata"]) == names


async def test_versions_go_on_though_the_clock_was_set_back(document: Resource, db: Database) -> None:
    await db.execute("UPDATE documents SET updated_at = now() + interval '1 hour'")
    seen = [(await document.get()).json()["document"]["updated_at"]]
    where = {"type": "eq", "key": "title", "value": "title"}
    for call in (
        document.patch({"a": 1}),
        document.patch({"a": 2}),
        document.bot.http.patch(
            "/data/documents/metadata",
            json={**document.of_bot, "filter": where, "max_documents": 9, "metadata_updates": {"a": 1}},
        ),
        document.put("one", "two"),
        document.chunk("PUT", 0, "three"),
    ):
        answer = await call
        assert answer.is_success, answer.text
        seen.append((await document.get()).json()["document"]["updated_at"])
    assert len(set(seen)) == len(seen)
    assert seen == sorted(seen)


async def test_another_account_sees_no_version(either: Resource) -> None:
    params = {**either.of_bot, **either.params, "account_name": "another"}
    answer = await either.bot.http.get(either.path, params=params, headers={"If-None-Match": "*"})
    assert (answer.status_code, "ETag" in answer.headers) == (404, False)
