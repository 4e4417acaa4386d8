"""What a user of openapi-python-client writes."""

import os
from uuid import uuid4

from memory_client import AuthenticatedClient
from memory_client.api.collection import create_collection
from memory_client.api.data import get_document, insert_document, patch_document_metadata
from memory_client.api.search import search
from memory_client.models import (
    BotCreated,
    ChunkIn,
    CreateBot,
    DocumentDetail,
    DocumentIn,
    DocumentInserted,
    Equality,
    EqualityType,
    InsertDocument,
    MetadataPatched,
    MetadataUpdates,
    PatchMetadata,
    Problem,
    SearchAnswer,
    SearchQuery,
)

client = AuthenticatedClient(base_url=os.environ["MEMORY_URL"], token=os.environ["MEMORY_KEY"], timeout=60)
bot_id = uuid4()

bot = create_collection.sync(
    client=client,
    body=CreateBot(chat_bot_id=bot_id, bot_name="서울 안내 봇", collection_name=f"c_{bot_id.hex}"),
)
assert isinstance(bot, BotCreated), bot
assert bot.chat_bot_id == bot_id

inserted = insert_document.sync(
    client=client,
    body=InsertDocument(
        document=DocumentIn(chat_bot_id=bot_id, title="경복궁 안내", author="안내소"),
        chunks=[ChunkIn(chunk_index=0, text="경복궁은 화요일에 문을 닫는다.")],
    ),
)
assert isinstance(inserted, DocumentInserted), inserted

question = "경복궁은 언제 쉬나요?"
only = Equality(type_=EqualityType.EQ, key="author", value="안내소")
found = search.sync(client=client, body=SearchQuery(chat_bot_id=bot_id, query_text=question, filter_=only))
assert isinstance(found, SearchAnswer), found
assert [result.document.title for result in found.results] == ["경복궁 안내"]

updates = MetadataUpdates(author="문화재청")
updates["reviewed"] = True
patched = patch_document_metadata.sync(
    doc_id=inserted.doc_id, client=client, body=PatchMetadata(chat_bot_id=bot_id, metadata_updates=updates)
)
assert isinstance(patched, MetadataPatched), patched
stored = get_document.sync(doc_id=inserted.doc_id, client=client, chat_bot_id=bot_id)
assert isinstance(stored, DocumentDetail), stored
assert (stored.document.title, stored.document.author) == ("경복궁 안내", "문화재청")
assert stored.document.metadata.to_dict() == {"reviewed": True}

problem = search.sync(client=client, body=SearchQuery(chat_bot_id=uuid4(), query_text=question))
assert isinstance(problem, Problem), problem
assert (problem.status, problem.code) == (404, "bot_not_found")
