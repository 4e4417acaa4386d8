"""Request and response bodies of /data/sync."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import ConfigDict, Field, Strict

from app.models.base import Request, Response
from app.models.collection import EXAMPLE_BOT
from app.models.fields import AccountName


class StartSync(Request):
    model_config = ConfigDict(json_schema_extra={"examples": [{"chat_bot_id": EXAMPLE_BOT}]})

    account_name: AccountName | None = None
    chat_bot_id: UUID


class SyncStarted(Response):
    status: Literal["success"] = "success"
    session_id: UUID
    lease_seconds: int = Field(description="After so long without a call another session of the bot may begin.")


class FinishSync(Request):
    model_config = ConfigDict(json_schema_extra={"examples": [{"chat_bot_id": EXAMPLE_BOT, "delete_missing": False}]})

    account_name: AccountName | None = None
    chat_bot_id: UUID
    delete_missing: Annotated[bool, Strict()] = Field(
        description="Delete the documents that the bot had when the session began and that no batch has named."
    )


class SyncFinished(Response):
    status: Literal["success"] = "success"
    deleted_documents: int
    deleted_chunks: int


class SyncCancelled(Response):
    status: Literal["success"] = "success"
    session_id: UUID
