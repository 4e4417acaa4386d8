"""Ids in OpenAI's form: ``vs_`` and the hex digits of a chat_bot_id, ``file-`` and a doc_id.

A chat_bot_id or a doc_id itself is accepted as well.
"""

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Path

from app.models.fields import INT64_MAX
from app.utils.errors import BotNotFound, DocumentNotFound

STORE_PREFIX, FILE_PREFIX = "vs_", "file-"


def store_id(bot_id: UUID) -> str:
    return f"{STORE_PREFIX}{bot_id.hex}"


def file_id(doc_id: int) -> str:
    return f"{FILE_PREFIX}{doc_id}"


def bot_of(store: str) -> UUID:
    """Raises BotNotFound."""
    try:
        return UUID(store.removeprefix(STORE_PREFIX))
    except ValueError:
        raise BotNotFound() from None


def document_of(file: str) -> int:
    """Raises DocumentNotFound."""
    digits = file.removeprefix(FILE_PREFIX)
    if digits.isascii() and digits.isdecimal() and len(digits) < 20 and 0 < int(digits) <= INT64_MAX:
        return int(digits)
    raise DocumentNotFound("This vector store has no such file: an id is file- and a doc_id.")


async def _bot(vector_store_id: Annotated[str, Path()]) -> UUID:
    return bot_of(vector_store_id)


async def _document(file_id: Annotated[str, Path()]) -> int:
    return document_of(file_id)


StorePath = Annotated[UUID, Depends(_bot)]
FilePath = Annotated[int, Depends(_document)]
