"""``clients/python`` against a server with API keys, and its retries against answers that are made up."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.clients.conftest import Platform

ROOT = Path(__file__).resolve().parents[2] / "clients" / "python"
sys.path.insert(0, str(ROOT / "src"))

from chat_memory_client import (  # noqa: E402
    AsyncChatMemory,
    Bot,
    ChatMemory,
    ChatMemoryError,
    Document,
    NotFound,
    PreconditionFailed,
)

PALACE = Document("궁", ["광화문", "경복궁은 화요일에 쉰다."], {"language": "ko"}, ["seoul"], author="안내소",
                  page_numbers=[1, None])  # fmt: skip


@pytest.fixture
def memory(platform: Platform) -> Iterator[ChatMemory]:
    with ChatMemory(platform.address, platform.write_key) as opened:
        yield opened


@pytest.fixture
async def async_memory(platform: Platform) -> AsyncIterator[AsyncChatMemory]:
    async with AsyncChatMemory(platform.address, platform.write_key) as opened:
        yield opened


def make_bot(memory: ChatMemory) -> Bot:
    return memory.create_bot("bot", f"p_{uuid4().hex}")


def test_a_bot_and_a_document_from_beginning_to_end(memory: ChatMemory) -> None:
    bot = make_bot(memory).chat_bot_id
    assert bot in [one.chat_bot_id for one in memory.bots()]
    doc_id = memory.insert(bot, PALACE)
    (found,) = memory.search(bot, "경복궁은 무슨 요일에 쉬나요?", limit=1)
    assert (found.doc_id, found.text, found.title, found.page_number) == (doc_id, PALACE.texts[1], "궁", None)
    stored = memory.document(bot, doc_id)
    assert stored.chunks is not None
    assert [(chunk.text, chunk.page_number) for chunk in stored.chunks] == [("광화문", 1), (PALACE.texts[1], None)]
    assert (stored.tags, stored.author, stored.metadata) == (["seoul"], "안내소", {"language": "ko"})
    memory.patch_metadata(bot, doc_id, {"language": None, "author": "in metadata"})
    assert memory.document(bot, doc_id).metadata == {"author": "in metadata"}
    memory.replace(bot, doc_id, Document("한강", ["강"]))
    assert [one.title for one in memory.documents(bot)] == ["한강"]
    changed = memory.document(bot, doc_id)
    with pytest.raises(PreconditionFailed):
        memory.replace(bot, doc_id, PALACE, if_match=stored.etag)
    with pytest.raises(PreconditionFailed):
        memory.patch_metadata(bot, doc_id, {"a": 1}, if_match=stored.etag)
    assert memory.document(bot, doc_id) == changed
    memory.patch_metadata(bot, doc_id, {"a": 1}, if_match=changed.etag)
    memory.replace(bot, doc_id, PALACE, if_match=memory.document(bot, doc_id).etag)
    assert memory.delete(bot, [doc_id, doc_id + 1]) == 1
    with pytest.raises(NotFound, match="no document"):
        memory.document(bot, doc_id)
    memory.delete_bot(bot)
    with pytest.raises(NotFound) as caught:
        memory.search(bot, "x")
    assert (caught.value.status, caught.value.code) == (404, "bot_not_found")
    assert caught.value.request_id


def test_many_documents_and_one_that_cannot_be_stored(memory: ChatMemory, capsys: pytest.CaptureFixture[str]) -> None:
    bot = make_bot(memory).chat_bot_id
    documents = [Document(str(number), [f"text {number}"] if number != 3 else [" "]) for number in range(7)]
    outcomes = memory.insert_many(bot, iter(documents), batch=2, progress=True)
    assert [outcome.doc_id is None for outcome in outcomes] == [number == 3 for number in range(7)]
    assert outcomes[3].code == "invalid_input"
    assert outcomes[3].detail is not None
    assert "white space" in outcomes[3].detail
    assert "7/7" in capsys.readouterr().err
    assert len(list(memory.documents(bot))) == 6


def test_an_invalid_call_says_where(memory: ChatMemory) -> None:
    with pytest.raises(ChatMemoryError) as caught:
        memory.search(uuid4(), "x", limit=0)
    assert (caught.value.status, caught.value.errors[0]["loc"]) == (422, "body.limit")


async def test_the_asynchronous_client(async_memory: AsyncChatMemory) -> None:
    bot = (await async_memory.create_bot("bot", f"p_{uuid4().hex}")).chat_bot_id
    doc_id = await async_memory.insert(bot, PALACE)
    outcomes = await async_memory.insert_many(bot, [Document("a", ["b"])])
    assert [one.doc_id async for one in async_memory.documents(bot)] == [doc_id, outcomes[0].doc_id]
    assert (await async_memory.search(bot, "경복궁은 언제 쉬나요?", limit=1))[0].doc_id == doc_id
    await async_memory.patch_metadata(bot, doc_id, {"n": 1})
    assert (await async_memory.document(bot, doc_id)).metadata == {"language": "ko", "n": 1}
    await async_memory.replace(bot, doc_id, PALACE)
    assert await async_memory.delete(bot, [doc_id]) == 1
    assert bot in [one.chat_bot_id for one in await async_memory.bots()]
    await async_memory.delete_bot(bot)
    with pytest.raises(NotFound):
        await async_memory.delete_bot(bot)


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_example(platform: Platform, example: Path) -> None:
    variables = {"MEMORY_URL": platform.address, "MEMORY_KEY": platform.write_key, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, example], env=os.environ | variables, capture_output=True, text=True, check=True
    )
    assert "경복궁은 화요일에 쉰다." in done.stdout


Answer = Callable[[httpx.Request], httpx.Response]


def against(*answers: Answer | Exception, retries: int = 4) -> tuple[ChatMemory, list[httpx.Request]]:
    """A client of these answers, one after the other, and the requests that it sends."""
    sent: list[httpx.Request] = []
    coming = iter(answers)

    def handle(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        answer = next(coming)
        if isinstance(answer, Exception):
            raise answer
        return answer(request)

    http = httpx.Client(transport=httpx.MockTransport(handle), base_url="http://server")
    return ChatMemory(http=http, retries=retries), sent


def status(code: int, body: object = None, **headers: str) -> Answer:
    return lambda _: httpx.Response(code, json=body or {}, headers=headers)


STORED = status(201, {"doc_id": 7})
LOST = httpx.ReadError("lost")


@pytest.fixture(autouse=True)
def delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr("chat_memory_client.client.time.sleep", slept.append)
    return slept


def test_a_repeated_insert_has_the_same_key(delays: list[float]) -> None:
    in_flight = status(409, {"code": "request_in_flight", "detail": "in progress"}, **{"retry-after": "1"})
    client, sent = against(LOST, status(503, **{"retry-after": "3"}), in_flight, STORED)
    assert client.insert(uuid4(), PALACE) == 7
    assert len({request.headers["idempotency-key"] for request in sent}) == 1
    assert len(sent) == 4
    assert delays[0] < 1 <= delays[2]
    assert delays[1] == 3


def test_two_inserts_have_two_keys() -> None:
    client, sent = against(STORED, STORED)
    for _ in range(2):
        client.insert(uuid4(), PALACE)
    assert len({request.headers["idempotency-key"] for request in sent}) == 2


@pytest.mark.parametrize("code", [400, 404, 409, 422, 500])
def test_what_would_fail_again_is_not_repeated(code: int) -> None:
    client, sent = against(status(code, {"code": "x", "detail": "y"}))
    with pytest.raises(ChatMemoryError):
        client.insert(uuid4(), PALACE)
    assert len(sent) == 1


def test_the_last_error_is_raised() -> None:
    client, sent = against(*[status(503, {"code": "unavailable", "detail": "y"})] * 3, retries=2)
    with pytest.raises(ChatMemoryError, match="503 unavailable: y"):
        client.search(uuid4(), "x")
    assert len(sent) == 3
    client, _ = against(LOST, LOST, retries=1)
    with pytest.raises(httpx.ReadError):
        client.search(uuid4(), "x")


def test_a_deletion_whose_answer_was_lost_is_done() -> None:
    gone = status(404, {"code": "bot_not_found", "detail": "y"})
    client, _ = against(LOST, gone)
    client.delete_bot(uuid4())
    client, _ = against(gone)
    with pytest.raises(NotFound):
        client.delete_bot(uuid4())


def test_an_answer_of_a_proxy_is_an_error_as_well() -> None:
    client, _ = against(lambda _: httpx.Response(502, text="<html>Bad Gateway</html>"))
    with pytest.raises(ChatMemoryError, match="502 http_error: <html>Bad Gateway"):
        client.bots()
