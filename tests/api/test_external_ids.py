"""Documents by the ids that their owners have for them: inserts that create, replace, skip or change nothing."""

from typing import Any

import pytest

from tests.conftest import BotClient, register
from tests.doubles.hash_embedder import HashEmbedder

ID = "gazette/2026/법 1.md"
KEYED = {"external_id": ID}


async def insert(bot: BotClient, *texts: str, on_conflict: str = "error", **document: object) -> Any:
    body = bot.body(*texts, **{"external_id": ID, **document}) | {"on_conflict": on_conflict}
    return await bot.http.post("/data/insert", json=body)


async def documents(bot: BotClient) -> list[dict[str, Any]]:
    answer = await bot.http.get("/data/documents", params={"chat_bot_id": str(bot.bot_id)})
    listed: list[dict[str, Any]] = answer.json()["documents"]
    return listed


def params(bot: BotClient, external_id: str = ID) -> dict[str, str]:
    return {"chat_bot_id": str(bot.bot_id), "external_id": external_id}


async def test_an_insert_creates_once(bot: BotClient) -> None:
    first = await insert(bot, "one")
    assert (first.status_code, first.json()["result"]) == (201, "created")
    second = await insert(bot, "two")
    assert (second.status_code, second.json()["code"]) == (409, "external_id_taken")
    (stored,) = await documents(bot)
    assert (stored["external_id"], stored["chunk_count"]) == (ID, 1)
    assert (await insert(bot, "three", external_id="another")).status_code == 201


async def test_replace_skip_and_replace_if_changed(bot: BotClient) -> None:
    created = (await insert(bot, "one", "two", on_conflict="replace")).json()
    assert created["result"] == "created"
    skipped = await insert(bot, "x", on_conflict="skip")
    assert (skipped.status_code, skipped.json()["result"]) == (200, "skipped")
    assert skipped.json()["doc_id"] == created["doc_id"]
    before = await documents(bot)
    same = await insert(bot, "one", "two", on_conflict="replace_if_changed")
    assert (same.status_code, same.json()["result"], same.json()["embedded_chunks"]) == (200, "unchanged", 0)
    assert await documents(bot) == before
    replaced = (await insert(bot, "one", "new", on_conflict="replace_if_changed")).json()
    assert (replaced["result"], replaced["embedded_chunks"], replaced["doc_id"]) == ("replaced", 1, created["doc_id"])
    replaced = (await insert(bot, "one", "new", on_conflict="replace")).json()
    assert (replaced["result"], replaced["embedded_chunks"]) == ("replaced", 0)


@pytest.mark.parametrize(
    "change",
    [
        {"title": "another"},
        {"file_path": "p"},
        {"file_type": "t"},
        {"author": "a"},
        {"tags": ["x"]},
        {"metadata": {"n": 1.0, "b": {"k": 1}}},
        {"metadata": {"n": True, "b": {"k": 1}}},
        {"metadata": {"n": 1}},
    ],
)
async def test_whatever_is_stored_is_compared(bot: BotClient, change: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"metadata": {"n": 1, "b": {"k": 1}}}
    await insert(bot, "one", **fields)
    again = (await insert(bot, "one", on_conflict="replace_if_changed", **fields)).json()
    assert again["result"] == "unchanged"
    changed = (await insert(bot, "one", on_conflict="replace_if_changed", **(fields | change))).json()
    assert (changed["result"], changed["embedded_chunks"]) == ("replaced", 0)
    again = (await insert(bot, "one", on_conflict="replace_if_changed", **(fields | change))).json()
    assert again["result"] == "unchanged"


@pytest.mark.parametrize("chunk", [{"chunk_index": 1}, {"page_number": 5}, {"text": "One"}])
async def test_a_chunk_that_changed_is_a_change(bot: BotClient, chunk: dict[str, Any]) -> None:
    await insert(bot, "one")
    body: dict[str, Any] = bot.body("one", external_id=ID) | {"on_conflict": "replace_if_changed"}
    body["chunks"][0] |= chunk
    assert (await bot.http.post("/data/insert", json=body)).json()["result"] == "replaced"


async def test_a_patch_is_a_change(bot: BotClient) -> None:
    await insert(bot, "one")
    patch = {"chat_bot_id": str(bot.bot_id), "metadata_updates": {"author": "someone"}}
    answer = await bot.http.patch("/data/document/metadata", params={"external_id": ID}, json=patch)
    assert answer.status_code == 200
    assert (await insert(bot, "one", on_conflict="replace_if_changed")).json()["result"] == "replaced"
    (stored,) = await documents(bot)
    assert stored["author"] is None


async def test_a_batch_tells_of_each_document(bot: BotClient, embedder: HashEmbedder) -> None:
    def document(external_id: str | None, text: str) -> dict[str, object]:
        return bot.body(text, **({"external_id": external_id} if external_id else {}))

    async def send(*items: dict[str, object], on_conflict: str = "replace_if_changed") -> list[tuple[str, str]]:
        body = {"documents": list(items), "on_conflict": on_conflict}
        answer = await bot.http.post("/data/insert/batch", json=body)
        assert answer.status_code == 200, answer.text
        return [(one["result"], one["error"] and one["error"]["code"]) for one in answer.json()["results"]]

    new = ("created", None)
    assert await send(document("a", "1"), document("b", "2"), document("c", "3")) == [new] * 3
    found = await send(document("a", "1"), document("b", "changed"), document("d", "4"), document("d", "5"))
    assert found == [("unchanged", None), ("replaced", None), new, (None, "invalid_input")]
    found = await send(document("a", "x"), document("e", "6"), document(None, "7"), on_conflict="error")
    assert found == [(None, "external_id_taken"), new, new]
    found = await send(document("a", "x"), document("f", "8"), on_conflict="skip")
    assert found == [("skipped", None), new]
    assert await send(document(None, "9"), document("a", "1")) == [(None, "invalid_input"), ("unchanged", None)]


async def test_ids_are_compared_in_nfc(bot: BotClient) -> None:
    assert (await insert(bot, "one", external_id="\u1112\u1161\u11ab")).status_code == 201
    assert (await insert(bot, "two", external_id="\ud55c")).status_code == 409
    answer = await bot.http.get("/data/document", params=params(bot, "\u1112\u1161\u11ab"))
    assert answer.json()["document"]["external_id"] == "\ud55c"


@pytest.mark.parametrize("external_id", ["", " ", "\u3164", "x" * 513, "a\x00b", 7])
async def test_bad_ids_are_refused(bot: BotClient, external_id: object) -> None:
    answer = await insert(bot, "one", external_id=external_id)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == "body.document.external_id"


async def test_the_longest_id_is_taken(bot: BotClient) -> None:
    external_id = "".join(chr(0x20000 + number * 37) for number in range(512))
    assert (await insert(bot, "one", external_id=external_id)).status_code == 201
    assert (await bot.http.get("/data/document", params=params(bot, external_id))).status_code == 200


async def test_get_put_and_delete_by_external_id(bot: BotClient) -> None:
    assert (await bot.http.get("/data/document", params=params(bot))).status_code == 404
    created = await bot.http.put("/data/document", params={"external_id": ID}, json=bot.body("one"))
    assert (created.status_code, created.json()["result"]) == (201, "created")
    replaced = await bot.http.put("/data/document", params={"external_id": ID}, json=bot.body("one", "2", **KEYED))
    assert (replaced.status_code, replaced.json()["result"], replaced.json()["embedded_chunks"]) == (200, "replaced", 1)
    read = (await bot.http.get("/data/document", params=params(bot))).json()
    assert (read["document"]["doc_id"], [chunk["text"] for chunk in read["chunks"]]) == (
        created.json()["doc_id"],
        ["one", "2"],
    )
    assert (await bot.http.delete("/data/document", params=params(bot))).json()["deleted_chunks"] == 2
    assert (await bot.http.delete("/data/document", params=params(bot))).status_code == 404
    again = await bot.http.put("/data/document", params={"external_id": ID}, json=bot.body("one"))
    assert again.status_code == 201
    assert again.json()["doc_id"] != created.json()["doc_id"]


async def test_put_by_doc_id_keeps_the_external_id(bot: BotClient) -> None:
    doc_id = (await insert(bot, "one")).json()["doc_id"]
    path = f"/data/document/{doc_id}"
    assert (await bot.http.put(path, json=bot.body("two"))).status_code == 200
    assert (await bot.http.put(path, json=bot.body("three", **KEYED))).status_code == 200
    (stored,) = await documents(bot)
    assert stored["external_id"] == ID
    other = await bot.http.put(path, json=bot.body("two", external_id="another"))
    assert (other.status_code, other.json()["errors"][0]["loc"]) == (422, "body.document.external_id")
    gone = await bot.http.put("/data/document/99999999", json=bot.body("two", **KEYED))
    assert gone.status_code == 404


@pytest.mark.parametrize(
    ("query", "body", "location"),
    [
        ({"external_id": ID}, {"document": {"external_id": "another"}}, "body.document.external_id"),
        ({"external_id": ID}, {"on_conflict": "skip"}, "body.on_conflict"),
        ({"external_id": ""}, {}, "query.external_id"),
        ({}, {}, "query.external_id"),
    ],
)
async def test_a_put_that_contradicts_itself_is_refused(
    bot: BotClient, query: dict[str, str], body: dict[str, Any], location: str
) -> None:
    sent: dict[str, Any] = bot.body("one")
    sent = sent | body | {"document": sent["document"] | body.get("document", {})}
    answer = await bot.http.put("/data/document", params=query, json=sent)
    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, location)
    assert await documents(bot) == []


async def test_on_conflict_needs_an_id_and_a_known_value(bot: BotClient) -> None:
    answer = await bot.http.post("/data/insert", json=bot.body("one") | {"on_conflict": "replace"})
    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, "body.document.external_id")
    answer = await bot.http.post("/data/insert", json=bot.body("one", **KEYED) | {"on_conflict": "upsert"})
    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, "body.on_conflict")
    patch = {"chat_bot_id": str(bot.bot_id), "metadata_updates": {"external_id": "x"}}
    doc_id = await bot.insert("one")
    assert (await bot.http.patch(f"/data/document/{doc_id}/metadata", json=patch)).status_code == 422


async def test_an_answer_without_a_write_is_repeated_too(bot: BotClient) -> None:
    await insert(bot, "one")
    body = bot.body("one", **KEYED) | {"on_conflict": "replace_if_changed"}
    headers = {"Idempotency-Key": "k"}
    first = await bot.http.post("/data/insert", json=body, headers=headers)
    assert (first.status_code, first.json()["result"]) == (200, "unchanged")
    await insert(bot, "two", on_conflict="replace")
    again = await bot.http.post("/data/insert", json=body, headers=headers)
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers["Idempotency-Replayed"] == "true"
    (stored,) = await documents(bot)
    read = (await bot.http.get(f"/data/document/{stored['doc_id']}", params={"chat_bot_id": str(bot.bot_id)})).json()
    assert [chunk["text"] for chunk in read["chunks"]] == ["two"]


async def test_a_key_belongs_to_one_external_id(bot: BotClient) -> None:
    headers = {"Idempotency-Key": "k"}
    sent = {"json": bot.body("one"), "headers": headers}
    first = await bot.http.put("/data/document", params={"external_id": "a"}, **sent)
    again = await bot.http.put("/data/document", params={"external_id": "a"}, **sent)
    assert (again.status_code, again.content) == (201, first.content)
    other = await bot.http.put("/data/document", params={"external_id": "b"}, **sent)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


async def test_another_bot_has_ids_of_its_own(bot: BotClient) -> None:
    other = await register(bot.http)
    assert (await insert(bot, "one")).status_code == 201
    assert (await insert(other, "one")).status_code == 201
    assert (await bot.http.delete("/data/document", params=params(bot))).status_code == 200
    assert (await bot.http.get("/data/document", params=params(other))).status_code == 200
