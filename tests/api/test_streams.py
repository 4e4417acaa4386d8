"""Bulk loads by parts, through HTTP."""

import asyncio
import gzip
import hashlib
import json
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
import pytest
from starlette.requests import ClientDisconnect

from app.api import stream_body
from app.config import Settings
from app.core.services import Services
from app.core.stores.postgres.database import Database
from app.core.transfer import streams as core_streams
from app.utils.errors import VectorIndexUnavailable
from app.utils.failpoints import install
from app.utils.lifecycle import process
from tests.api.keys import bearer, make_key
from tests.conftest import BotClient, in_process, register
from tests.doubles.counting_embedder import CountingEmbedder

URL = "/data/insert/stream"


@pytest.fixture
def embedder() -> CountingEmbedder:
    return CountingEmbedder()


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_streams, "BATCH_DOCUMENTS", 3)
    monkeypatch.setattr(stream_body, "IDLE_SECONDS", 0.05)


def line(bot: BotClient, text: str, **document: object) -> bytes:
    return orjson.dumps(bot.body(text, title=text, **document)) + b"\n"


def lines(bot: BotClient, count: int, first: int = 1) -> bytes:
    return b"".join(line(bot, f"text {number}") for number in range(first, first + count))


async def send(bot: BotClient, body: Any, part: int = 1, status: int = 200, **options: Any) -> dict[str, Any]:
    headers = options.pop("headers", {})
    params = {"chat_bot_id": str(bot.bot_id), "stream_key": "load", "part": part, **options}
    answer = await bot.http.post(URL, params=params, content=body, headers=headers)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def results(bot: BotClient, **options: Any) -> list[dict[str, Any]]:
    """All pages."""
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        params = {"chat_bot_id": str(bot.bot_id), **options, **cursor}
        answer = await bot.http.get(f"{URL}/load/results", params=params)
        assert answer.status_code == 200, answer.text
        found += answer.json()["results"]
        if answer.json()["next_cursor"] is None:
            return found
        cursor = {"cursor": answer.json()["next_cursor"]}


async def state(bot: BotClient, **options: Any) -> dict[str, Any]:
    answer = await bot.http.get(f"{URL}/load", params={"chat_bot_id": str(bot.bot_id), **options})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def titles(bot: BotClient) -> list[str]:
    answer = await bot.http.get("/data/documents", params={"chat_bot_id": str(bot.bot_id), "limit": 1000})
    return sorted(document["title"] for document in answer.json()["documents"])


def texts(*numbers: int) -> list[str]:
    return sorted(f"text {number}" for number in numbers)


def counts(answer: dict[str, Any]) -> tuple[int, int, int, int]:
    return answer["lines"], answer["repeated"], answer["stored"], answer["failed"]


async def test_a_part_is_stored_once(bot: BotClient, embedder: CountingEmbedder) -> None:
    body = lines(bot, 8)
    done = await send(bot, body)
    assert (done["status"], counts(done)) == ("success", (8, 0, 8, 0))
    assert await titles(bot) == texts(*range(1, 9))
    assert "text 7" in str((await bot.search("text 7", limit=1))[0])
    embedder.embedded.clear()
    for again in (body, body.rstrip(), gzip.compress(body)):
        headers = {"content-encoding": "gzip"} if again[:1] == b"\x1f" else {}
        assert counts(await send(bot, again, headers=headers)) == (8, 8, 8, 0)
    assert embedder.embedded == []
    assert await titles(bot) == texts(*range(1, 9))
    # A part that begins with the lines that are stored goes on with the others.
    assert counts(await send(bot, body + lines(bot, 2, 9))) == (10, 8, 10, 0)
    found = await state(bot)
    assert (found["total_parts"], found["lines"], found["stored"], found["failed"]) == (1, 10, 10, 0)
    assert found["parts"][0]["sha256"] == hashlib.sha256(body + lines(bot, 2, 9)).hexdigest()
    assert (found["parts"][0]["lines"], found["parts"][0]["in_flight"]) == (10, False)


async def test_another_content_is_refused(bot: BotClient) -> None:
    await send(bot, lines(bot, 5))
    for other in (lines(bot, 5, 2), lines(bot, 4), b"", lines(bot, 5)[:-9]):
        answer = await send(bot, other, status=409)
        assert (answer["code"], answer["progress"]["lines"]) == ("part_differs", 5)
    assert await titles(bot) == texts(*range(1, 6))
    await send(bot, lines(bot, 1, 6), part=2)
    assert await titles(bot) == texts(*range(1, 7))


async def test_bad_lines_fail_alone(bot: BotClient) -> None:
    other = await register(bot.http)
    long = bot.body("x" * 8193)
    surrogate = json.dumps(bot.body("\ud800")).encode() + b"\n"
    body = b"".join(
        (
            line(bot, "text 1"),
            b'{"document": \n',
            b"\n",
            b'{"document": {"title": "no bot"}, "chunks": []}\n',
            line(other, "of another bot"),
            orjson.dumps(long) + b"\r\n",
            b"\xb0\xa1\n",
            surrogate,
            b"[" * 100_000 + b"\n",
            line(bot, "text 10", external_id="a"),
            line(bot, "text 11", external_id="a"),
            b"  \n",
        )
    )
    done = await send(bot, body)
    assert (done["status"], counts(done)) == ("partial", (12, 0, 2, 8))
    assert await titles(bot) == texts(1, 10)
    found = {one["line"]: one for one in await results(bot)}
    assert sorted(found) == [1, 2, 4, 5, 6, 7, 8, 9, 10, 11]
    assert (found[1]["success"], found[1]["result"], found[1]["error"]) == (True, "created", None)
    errors = {number: one["error"] for number, one in found.items() if not one["success"]}
    assert {number: error["code"] for number, error in errors.items()} == {
        2: "malformed_body",
        4: "invalid_input",
        5: "invalid_input",
        6: "invalid_input",
        7: "malformed_body",
        8: "invalid_input",
        9: "malformed_body",
        11: "external_id_taken",
    }
    places = {number: [one["loc"] for one in error["errors"]] for number, error in errors.items()}
    assert places[2] == ["body.lines.2.13"]
    assert places[4] == ["body.lines.4.document.chat_bot_id", "body.lines.4.chunks"]
    assert places[5] == ["body.lines.5.document.chat_bot_id"]
    assert places[6] == ["body.lines.6.chunks.0.text"]
    assert places[11] == ["body.lines.11"]
    assert [one["line"] for one in await results(bot, failed=True)] == sorted(errors)
    assert [one["line"] for one in await results(bot, limit=1)] == sorted(found)
    assert [one["line"] for one in await results(bot, failed=True, limit=3)] == sorted(errors)
    # They are results as well: a repeat does not try them again.
    assert counts(await send(bot, body)) == (12, 12, 2, 8)


async def test_a_long_line_fails_alone(services: Services) -> None:
    settings = Settings(_env_file=None, auth_disabled=True, max_body_bytes=4096)
    async with in_process(services, settings) as client:
        bot = await register(client)
        body = line(bot, "text 1") + b'"' + b"x" * 1_000_000 + b'"\n' + line(bot, "text 3")
        assert counts(await send(bot, body)) == (3, 0, 2, 1)
        assert [one["error"]["code"] for one in await results(bot, failed=True)] == ["body_too_large"]
        assert counts(await send(bot, body)) == (3, 3, 2, 1)


@pytest.mark.parametrize(
    ("on_conflict", "outcomes"),
    [
        ("error", ["created", "external_id_taken", "external_id_taken", "created"]),
        ("skip", ["created", "skipped", "skipped", "invalid_input"]),
        ("replace", ["created", "replaced", "replaced", "invalid_input"]),
        ("replace_if_changed", ["created", "unchanged", "replaced", "invalid_input"]),
    ],
)
async def test_on_conflict(bot: BotClient, on_conflict: str, outcomes: list[str]) -> None:
    """Each line finds what the lines before it have stored."""
    body = line(bot, "a", external_id="x") * 2 + line(bot, "b", external_id="x") + line(bot, "no name")
    await send(bot, body, on_conflict=on_conflict)
    found = await results(bot)
    assert [one["result"] or one["error"]["code"] for one in found] == outcomes


async def test_gzip(bot: BotClient) -> None:
    headers = {"content-encoding": "gzip"}
    body = lines(bot, 10)
    members = gzip.compress(body[:300]) + gzip.compress(body[300:])

    async def bytewise() -> AsyncIterator[bytes]:
        for start in range(0, len(members), 7):
            yield members[start : start + 7]

    assert counts(await send(bot, bytewise(), headers=headers)) == (10, 0, 10, 0)
    assert counts(await send(bot, body)) == (10, 10, 10, 0)
    for bad in (members[:-5], body, gzip.compress(body) + b"garbage"):
        answer = await send(bot, bad, part=2, status=400, headers=headers)
        assert answer["code"] == "malformed_body"
    answer = await send(
        bot, b"", part=3, status=415, headers={"content-encoding": "br", "transfer-encoding": "chunked"}
    )
    assert answer["code"] == "encoding_unsupported"
    # Other routes take no compressed body.
    compressed = gzip.compress(orjson.dumps(bot.body("a")))
    refused = await bot.http.post("/data/insert", content=compressed, headers=headers)
    assert refused.status_code == 415


async def test_a_bomb_is_refused_in_bounded_memory(bot: BotClient) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    good = gzip.compress(lines(bot, 3))
    bomb = b"".join((good, *(packer.compress(bytes(1 << 20)) for _ in range(256)), packer.flush()))
    answer = await send(bot, bomb, status=413, headers={"content-encoding": "gzip"})
    assert (answer["code"], answer["progress"]["lines"]) == ("body_too_large", 3)


async def test_a_cut_part_goes_on(bot: BotClient, embedder: CountingEmbedder) -> None:
    body = lines(bot, 10)

    async def cut() -> AsyncIterator[bytes]:
        yield body[: len(body) // 2 + 10]
        raise ClientDisconnect

    with pytest.raises(AssertionError):  # httpx misses the response.
        await send(bot, cut())
    # The last line is cut off, and so it is not stored. A proxy may do that with a valid end of the body.
    answer = await send(bot, body[: len(body) // 2 + 10], status=400)
    assert (answer["code"], answer["progress"]["lines"]) == ("malformed_body", 5)
    assert await titles(bot) == texts(*range(1, 6))
    embedder.embedded.clear()
    assert counts(await send(bot, body)) == (10, 5, 10, 0)
    assert sorted(embedder.embedded) == texts(*range(6, 11))
    assert await titles(bot) == texts(*range(1, 11))


async def test_lines_are_stored_when_the_client_pauses(bot: BotClient) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield lines(bot, 1)
        async with asyncio.timeout(5):
            while await titles(bot) != texts(1):
                await asyncio.sleep(0.01)
        yield lines(bot, 1, 2)

    assert counts(await send(bot, slow())) == (2, 0, 2, 0)


async def test_two_at_once(bot: BotClient) -> None:
    body = lines(bot, 12)
    outcomes = await asyncio.gather(*(_status(bot, body) for _ in range(5)))
    assert set(outcomes) <= {200, 409}
    while (await _status(bot, body)) == 409:
        await asyncio.sleep(0.02)
    assert await titles(bot) == texts(*range(1, 13))
    assert len(await results(bot)) == 12


async def _status(bot: BotClient, body: bytes) -> int:
    params = {"chat_bot_id": str(bot.bot_id), "stream_key": "load", "part": "1"}
    answer = await bot.http.post(URL, params=params, content=body)
    if answer.status_code == 409:
        assert answer.json()["code"] == "part_in_progress"
        assert answer.headers["retry-after"] == "1"
    return answer.status_code


async def test_an_unavailable_store_ends_the_part(bot: BotClient, embedder: CountingEmbedder) -> None:
    """The lines before are stored, those of the batch not at all."""
    body = lines(bot, 10)
    calls = 0

    async def fail(point: str) -> None:
        nonlocal calls
        if point == "write.before_upsert":
            calls += 1
            if calls == 2:
                raise VectorIndexUnavailable("Milvus does not answer.")

    remove = install(fail)
    try:
        answer = await send(bot, body, status=503)
    finally:
        remove()
    assert (answer["code"], answer["progress"]["lines"]) == ("vector_index_unavailable", 3)
    assert await titles(bot) == texts(1, 2, 3)
    assert counts(await send(bot, body)) == (10, 3, 10, 0)
    assert await titles(bot) == texts(*range(1, 11))


async def test_a_document_that_another_request_writes_ends_the_part(
    bot: BotClient, embedder: CountingEmbedder, services: Services, at: Callable[..., asyncio.Event]
) -> None:
    """It may be there a moment later, and so its line has no result yet."""
    services.ingest._patience = 0.3
    over = asyncio.Event()
    writing = at("write.before_t2", over.wait)
    item = bot.body("of another request", external_id="x")
    other = asyncio.create_task(bot.http.post("/data/insert", json=item))
    await writing.wait()
    embedder.embedded.clear()
    body = lines(bot, 4) + line(bot, "text 5", external_id="x")
    params = {"chat_bot_id": str(bot.bot_id), "stream_key": "load", "part": "1", "on_conflict": "error"}
    answer = await bot.http.post(URL, params=params, content=body)
    assert (answer.status_code, answer.json()["code"]) == (409, "external_id_in_flight")
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["progress"] == {"lines": 3, "repeated": 0, "stored": 3, "failed": 0}
    assert embedder.embedded == texts(1, 2, 3)  # Nothing of the batch that would be undone.
    over.set()
    assert (await other).status_code == 201
    assert counts(await send(bot, body)) == (5, 3, 4, 1)
    assert [one["error"]["code"] for one in await results(bot, failed=True)] == ["external_id_taken"]


async def test_a_document_that_another_request_changes_ends_the_part(
    bot: BotClient, at: Callable[..., asyncio.Event]
) -> None:
    """As above. Its replacement finds the newer one when the part is sent again."""
    doc_id = await bot.insert("old", external_id="x")
    changed = bot.body("of another request")
    at("write.before_t2", lambda: bot.http.put(f"/data/document/{doc_id}", json=changed))
    body = line(bot, "text 1", external_id="y") + line(bot, "text 2", external_id="x")
    answer = await send(bot, body, status=409, on_conflict="replace")
    assert (answer["code"], answer["progress"]["lines"]) == ("document_changed", 0)
    assert counts(await send(bot, body, on_conflict="replace")) == (2, 0, 2, 0)
    assert [one["result"] for one in await results(bot)] == ["created", "replaced"]


async def test_a_stopping_server_ends_the_part(bot: BotClient, monkeypatch: pytest.MonkeyPatch) -> None:
    body = lines(bot, 5)

    async def stopped() -> AsyncIterator[bytes]:
        yield body
        monkeypatch.setattr(process, "draining", True)
        await asyncio.sleep(1)
        yield lines(bot, 1, 6)

    answer = await send(bot, stopped(), status=503)
    assert (answer["code"], answer["progress"]["lines"]) == ("server_stopping", 5)
    assert await titles(bot) == texts(*range(1, 6))
    monkeypatch.setattr(process, "draining", False)
    assert counts(await send(bot, body)) == (5, 5, 5, 0)


async def test_results_while_the_part_is_read(bot: BotClient) -> None:
    params = {"chat_bot_id": str(bot.bot_id), "stream_key": "load", "part": "1", "answer": "stream"}
    body = lines(bot, 7) + b"{\n"
    answer = await bot.http.post(URL, params=params, content=body)
    assert answer.headers["content-type"] == "application/x-ndjson"
    *found, end = map(orjson.loads, answer.content.splitlines())
    assert [one["line"] for one in found] == list(range(1, 9))
    assert [one["success"] for one in found] == [True] * 7 + [False]
    assert (end["status"], counts(end)) == ("partial", (8, 0, 7, 1))
    # Results of lines that were stored before are read by GET.
    answer = await bot.http.post(URL, params=params, content=body)
    assert counts(orjson.loads(answer.content)) == (8, 8, 7, 1)
    answer = await bot.http.post(URL, params=params, content=lines(bot, 2))
    assert orjson.loads(answer.content)["code"] == "part_differs"


async def test_a_deleted_bot_ends_the_part(bot: BotClient) -> None:
    async def deleted() -> AsyncIterator[bytes]:
        yield lines(bot, 3)
        await asyncio.sleep(0.2)
        answer = await bot.http.delete(f"/collection/{bot.bot_id}")
        assert answer.status_code == 200, answer.text
        yield lines(bot, 3, 4)

    answer = await send(bot, deleted(), status=404)
    assert answer["code"] == "bot_not_found"
    assert (await send(bot, lines(bot, 1), status=404))["code"] == "bot_not_found"


async def test_streams_per_account(bot: BotClient) -> None:
    parts = [asyncio.Event() for _ in range(8)]
    over = asyncio.Event()

    async def waiting(event: asyncio.Event) -> AsyncIterator[bytes]:
        yield b"\n"
        event.set()
        await over.wait()
        yield b"\n"

    running = [asyncio.create_task(send(bot, waiting(event), part=1 + n)) for n, event in enumerate(parts)]
    for event in parts:
        await event.wait()
    await asyncio.sleep(0.1)
    refused = await send(bot, b"\n", part=9, status=429)
    assert refused["code"] == "too_many_streams"
    over.set()
    assert [counts(one) for one in await asyncio.gather(*running)] == [(2, 0, 0, 0)] * 8


async def test_pages_of_parts(bot: BotClient) -> None:
    for part in (3, 1, 2):
        await send(bot, lines(bot, part), part=part)
    first = await state(bot, limit=2)
    assert [(one["part"], one["lines"]) for one in first["parts"]] == [(1, 1), (2, 2)]
    second = await state(bot, limit=2, cursor=first["next_cursor"])
    assert [one["part"] for one in second["parts"]] == [3]
    assert second["next_cursor"] is None
    assert (second["total_parts"], second["lines"]) == (3, 6)
    assert [(one["part"], one["line"]) for one in await results(bot, limit=2)] == [
        (1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3),
    ]  # fmt: skip


async def test_bad_parameters(bot: BotClient) -> None:
    for bad in ({"part": 0}, {"part": 2**31}, {"stream_key": "a b"}, {"stream_key": ""}, {"answer": "x"}, {"lines": 1}):
        assert (await send(bot, b"", status=422, **bad))["code"] == "invalid_input"  # type: ignore[arg-type]
    params = {"chat_bot_id": str(bot.bot_id)}
    assert (await bot.http.get(f"{URL}/none", params=params)).json()["code"] == "stream_not_found"
    assert (await bot.http.get(f"{URL}/none/results", params=params)).json()["code"] == "stream_not_found"
    assert (await bot.http.get(f"{URL}/none/results", params=params | {"cursor": "x"})).status_code == 422


async def test_a_stream_belongs_to_its_account(services: Services, db: Database) -> None:
    own, other = await make_key(db, "own"), await make_key(db, "other")
    async with in_process(services, Settings(_env_file=None)) as client:
        client.headers.update(bearer(own))
        bot = await register(client)
        await send(bot, lines(bot, 2))
        client.headers.update(bearer(other))
        answer = await send(bot, lines(bot, 3), status=404)
        assert answer["code"] == "bot_not_found"
        params = {"chat_bot_id": str(bot.bot_id)}
        for path in (f"{URL}/load", f"{URL}/load/results"):
            assert (await client.get(path, params=params)).status_code == 404
        client.headers.update(bearer(own))
        assert await titles(bot) == texts(1, 2)
