"""OpenAI's Python client uses the vector stores of a server with API keys, over a real socket."""

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import httpx
import openai
import pytest

from tests.clients.conftest import Platform, new_bot, new_document


@pytest.fixture
def client(platform: Platform) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{platform.address}/v1", api_key=platform.write_key, max_retries=0) as opened:
        yield opened


@pytest.fixture
async def async_client(platform: Platform) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{platform.address}/v1", api_key=platform.read_key) as opened:
        yield opened


def test_a_store_from_its_creation_to_its_deletion(client: openai.OpenAI, http: httpx.Client) -> None:
    name = f"서울 {uuid4().hex}"
    store = client.vector_stores.create(name=name)
    assert client.vector_stores.create(name=name).id == store.id
    other = client.vector_stores.create(name=name, extra_headers={"Idempotency-Key": "another"})
    assert other.id != store.id
    assert client.vector_stores.update(store.id, name="renamed").name == "renamed"
    assert client.vector_stores.create(name=name).id not in (store.id, other.id)
    bot = store.model_extra["chat_bot_id"] if store.model_extra else ""
    doc_id = new_document(http, bot, "경복궁은 화요일에 쉰다.", metadata={"language": "ko", "deep": {"k": 1}})

    (found,) = client.vector_stores.search(store.id, query="경복궁은 언제 쉬나요?").data
    assert (found.file_id, found.filename, found.attributes) == (f"file-{doc_id}", "title", {"language": "ko"})
    assert found.content[0].text == "경복궁은 화요일에 쉰다."
    korean: openai.types.shared_params.ComparisonFilter = {"type": "eq", "key": "language", "value": "ko"}
    assert len(client.vector_stores.search(store.id, query=["쉬나요", "궁"], filters=korean).data) == 1
    english: openai.types.shared_params.ComparisonFilter = {"type": "eq", "key": "language", "value": "en"}
    assert client.vector_stores.search(store.id, query="쉬나요", filters=english).data == []

    file = client.vector_stores.files.update(found.file_id, vector_store_id=store.id, attributes={"reviewed": True})
    assert file.attributes == {"language": "ko", "reviewed": True}
    assert file.model_extra is not None
    assert file.model_extra["metadata"] == {"language": "ko", "deep": {"k": 1}, "reviewed": True}
    content = client.vector_stores.files.content(found.file_id, vector_store_id=store.id)
    assert [part.text for part in content.data] == ["경복궁은 화요일에 쉰다."]
    assert client.vector_stores.files.delete(found.file_id, vector_store_id=store.id).deleted
    with pytest.raises(openai.NotFoundError, match="no document"):
        client.vector_stores.files.retrieve(found.file_id, vector_store_id=store.id)
    assert client.vector_stores.delete(store.id).deleted
    with pytest.raises(openai.NotFoundError, match="no bot"):
        client.vector_stores.retrieve(store.id)


def test_lists_end(client: openai.OpenAI, http: httpx.Client) -> None:
    """The client asks for pages until one is empty or says that it is the last."""
    bot = new_bot(http)
    doc_ids = [new_document(http, bot, f"text {number}") for number in range(5)]
    for order, expected in (("asc", doc_ids), ("desc", doc_ids[::-1])):
        files = client.vector_stores.files.list(bot, limit=2, order=order)
        assert [file.id for file in files] == [f"file-{doc_id}" for doc_id in expected]
    bots = [new_bot(http) for _ in range(3)]
    listed = [store.id for store in client.vector_stores.list(limit=2)]
    assert listed[:3] == [f"vs_{one.replace('-', '')}" for one in bots[::-1]]
    assert len(set(listed)) == len(listed)
    ascending = client.vector_stores.list(limit=100, order="asc").data
    assert [store.id for store in ascending] == listed[::-1]
    before = client.vector_stores.list(before=listed[3], limit=2).data
    assert [store.id for store in before] == listed[1:3]


def test_files_that_are_deleted_while_they_are_listed(client: openai.OpenAI, http: httpx.Client) -> None:
    bot = new_bot(http)
    for number in range(5):
        new_document(http, bot, f"text {number}")
    for file in client.vector_stores.files.list(bot, limit=2):
        client.vector_stores.files.delete(file.id, vector_store_id=bot)
    assert client.vector_stores.files.list(bot).data == []


def test_an_upload_says_how_to_store_text(client: openai.OpenAI, bot: str) -> None:
    with pytest.raises(openai.BadRequestError, match="POST /data/insert"):
        client.vector_stores.files.upload(vector_store_id=bot, file=("a.txt", b"text"))


async def test_a_read_key_reads(async_client: openai.AsyncOpenAI, http: httpx.Client, bot: str) -> None:
    doc_id = new_document(http, bot, "text")
    found = await async_client.vector_stores.search(bot, query="text")
    assert [one.file_id async for one in found] == [f"file-{doc_id}"]
    with pytest.raises(openai.PermissionDeniedError, match="'write'"):
        await async_client.vector_stores.create(name="x")


def test_each_account_sees_its_own(platform: Platform, client: openai.OpenAI, bot: str) -> None:
    with openai.OpenAI(base_url=f"{platform.address}/v1", api_key=platform.other_key, max_retries=0) as other:
        assert [store for store in other.vector_stores.list() if store.id == f"vs_{bot.replace('-', '')}"] == []
        with pytest.raises(openai.NotFoundError, match="no bot"):
            other.vector_stores.search(bot, query="text")
        assert other.vector_stores.create(name="same").id != client.vector_stores.create(name="same").id
