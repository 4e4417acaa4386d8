"""A client of the chat-memory server."""

from chat_memory_client.client import AsyncChatMemory, ChatMemory
from chat_memory_client.errors import ChatMemoryError, NotFound, PreconditionFailed
from chat_memory_client.models import Bot, Chunk, Document, Outcome, Result, StoredDocument

__all__ = [
    "AsyncChatMemory",
    "Bot",
    "ChatMemory",
    "ChatMemoryError",
    "Chunk",
    "Document",
    "NotFound",
    "Outcome",
    "PreconditionFailed",
    "Result",
    "StoredDocument",
]
