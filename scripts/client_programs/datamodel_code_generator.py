"""What a user of datamodel-code-generator's models writes, with httpx."""

import os
from typing import Any
from uuid import uuid4

import httpx
from memory_models import (
    BotCreated,
    ChunkIn,
    CreateBot,
    DocumentDetail,
    DocumentIn,
    DocumentInserted,
    InsertDocument,
    MetadataPatched,
    MetadataUpdates,
    PatchMetadata,
    Problem,
    SearchAnswer,
    SearchQuery,
)
from pydantic import BaseModel

http = httpx.Client(
    base_url=os.environ["MEMORY_URL"], headers={"Authorization": f"Bearer {os.environ['MEMORY_KEY']}"}, timeout=60
)
bot_id = uuid4()


def send(method: str, path: str, body: BaseModel, **options: Any) -> httpx.Response:
    """With null for what was left out, as models are dumped if nothing else is said."""
    return http.request(method, path, json=body.model_dump(mode="json", by_alias=True, **options))


bot = send(
    "POST",
    "/collection/create",
    CreateBot(chat_bot_id=bot_id, bot_name="서울 안내 봇", collection_name=f"c_{bot_id.hex}"),
)
assert BotCreated.model_validate_json(bot.text).chat_bot_id == bot_id

answer = send(
    "POST",
    "/data/insert",
    InsertDocument(
        document=DocumentIn(chat_bot_id=bot_id, title="경복궁 안내", author="안내소"),
        chunks=[ChunkIn(chunk_index=0, text="경복궁은 화요일에 문을 닫는다.")],
    ),
)
inserted = DocumentInserted.model_validate_json(answer.text)

question = "경복궁은 언제 쉬나요?"
only = {"type": "eq", "key": "author", "value": "안내소"}
query = SearchQuery.model_validate({"chat_bot_id": bot_id, "query_text": question, "filter": only})
found = SearchAnswer.model_validate_json(send("POST", "/search/query", query).text)
assert [result.document.title for result in found.results] == ["경복궁 안내"]

# null removes in a PATCH, so that what is left out must not be sent.
body = PatchMetadata(chat_bot_id=bot_id, metadata_updates=MetadataUpdates(author="문화재청", reviewed=True))
answer = send("PATCH", f"/data/document/{inserted.doc_id}/metadata", body, exclude_unset=True)
assert MetadataPatched.model_validate_json(answer.text).doc_id == inserted.doc_id
answer = http.get(f"/data/document/{inserted.doc_id}", params={"chat_bot_id": str(bot_id)})
stored = DocumentDetail.model_validate_json(answer.text).document
assert (stored.title, stored.author, stored.metadata) == ("경복궁 안내", "문화재청", {"reviewed": True})

answer = send("POST", "/search/query", SearchQuery(chat_bot_id=uuid4(), query_text=question))
problem = Problem.model_validate_json(answer.text)
assert (problem.status, problem.code) == (404, "bot_not_found")
