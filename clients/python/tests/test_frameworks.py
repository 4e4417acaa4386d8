"""The standard suites of langchain-tests, and the retrievers, against the server of MEMORY_URL.

Needs ``pip install ./clients/python[langchain,llama-index,haystack] langchain-tests pytest-asyncio``.
"""

import os
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from chat_memory_client import Bot, ChatMemory, Document
from chat_memory_client.haystack import ChatMemoryRetriever as HaystackRetriever
from chat_memory_client.langchain import ChatMemoryRetriever, ChatMemoryVectorStore
from chat_memory_client.llama_index import ChatMemoryRetriever as LlamaIndexRetriever
from haystack import Pipeline
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import RetrieversIntegrationTests, VectorStoreIntegrationTests

CLIENT = ChatMemory(os.environ["MEMORY_URL"], os.environ["MEMORY_KEY"])
KOREAN = {"type": "eq", "key": "metadata.language", "value": "ko"}


def new_bot() -> Bot:
    return CLIENT.create_bot("frameworks", f"f_{uuid4().hex}")


@pytest.fixture(scope="module")
def bot() -> Iterator[str]:
    made = new_bot()
    documents = [Document(f"title {number}", [f"text {number}"], metadata={"n": number}) for number in range(5)]
    CLIENT.insert_many(made.chat_bot_id, [*documents, Document("궁", ["경복궁은 쉰다."], metadata={"language": "ko"})])
    yield made.chat_bot_id
    CLIENT.delete_bot(made.chat_bot_id)


class TestVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self) -> Iterator[VectorStore]:
        made = new_bot()
        yield ChatMemoryVectorStore(CLIENT, made.chat_bot_id)
        CLIENT.delete_bot(made.chat_bot_id)


class TestRetriever(RetrieversIntegrationTests):
    made: Bot | None = None

    @property
    def retriever_constructor(self) -> type[ChatMemoryRetriever]:
        return ChatMemoryRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        if TestRetriever.made is None:
            TestRetriever.made = new_bot()
            texts = [Document(f"title {number}", [f"text {number}"]) for number in range(5)]
            CLIENT.insert_many(TestRetriever.made.chat_bot_id, texts)
        return {"client": CLIENT, "chat_bot_id": TestRetriever.made.chat_bot_id}

    @property
    def retriever_query_example(self) -> str:
        return "text 3"


def test_langchain_retriever_filters_and_gives_scores(bot: str) -> None:
    (found,) = ChatMemoryRetriever(client=CLIENT, chat_bot_id=bot, filter=KOREAN).invoke("쉬나요?")
    assert (found.page_content, found.metadata["title"]) == ("경복궁은 쉰다.", "궁")
    assert 0 <= found.metadata["score"] <= 1


def test_langchain_finds_ids_in_a_bot_that_cuts_results() -> None:
    name, bot_id = f"f_{uuid4().hex}", str(uuid4())
    body = {"chat_bot_id": bot_id, "bot_name": name, "collection_name": name, "min_confidence": 1}
    assert CLIENT._http.post("/collection/create", json=body).status_code == 201
    store = ChatMemoryVectorStore(CLIENT, bot_id)
    store.add_texts(["old", "other"], ids=["a", "b"])
    store.add_texts(["new"], ids=["a"])
    assert {one.id: one.page_content for one in store.get_by_ids(["a", "b"])} == {"a": "new", "b": "other"}
    store.delete(["a", "b"])
    assert list(CLIENT.documents(bot_id)) == []
    CLIENT.delete_bot(bot_id)


def test_llama_index_retriever(bot: str) -> None:
    (found,) = LlamaIndexRetriever(CLIENT, bot, filter=KOREAN).retrieve("쉬나요?")
    assert (found.text, found.metadata["title"]) == ("경복궁은 쉰다.", "궁")
    assert len(LlamaIndexRetriever(CLIENT, bot, similarity_top_k=2).retrieve("text")) == 2


def test_haystack_retriever_in_a_pipeline(bot: str) -> None:
    pipeline = Pipeline()
    pipeline.add_component("retriever", HaystackRetriever(CLIENT, bot, top_k=2))
    (found,) = pipeline.run({"retriever": {"query": "쉬나요?", "filters": KOREAN}})["retriever"]["documents"]
    assert (found.content, found.meta["title"]) == ("경복궁은 쉰다.", "궁")
