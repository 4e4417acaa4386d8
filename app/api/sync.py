"""Routes of /data/sync: sessions that make a bot's documents equal to those of a client."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Request

from app.api.auth import AccountDep
from app.api.data import batch_inserted, check_no_option
from app.api.deps import WRITE, AccountQuery, BotQuery, InsertManyBody, ServicesDep
from app.api.errors import BODY_ERRORS, COMMON_ERRORS, error_responses
from app.api.limits import ConcurrencyLimiter, LimitsDep, check_documents
from app.core.transfer.sync import LEASE
from app.models.data import BatchInserted
from app.models.inserts import Item
from app.models.sync import FinishSync, StartSync, SyncCancelled, SyncFinished, SyncStarted
from app.schemas.rows import NewDocument
from app.utils.errors import AppError, InvalidInput
from app.utils.stopwatch import Stopwatch

router = APIRouter(prefix="/data/sync", tags=["data"])

SessionPath = Annotated[
    UUID,
    Path(
        alias="session_id",
        description="From the response to the start of the session.",
        examples=["1d8e4f6a-3b2c-4d5e-8f90-a1b2c3d4e5f6"],
    ),
]
OTHER_BOT = "is not the bot of this session"


@router.post("", dependencies=[WRITE], responses=error_responses(404, 409, *BODY_ERRORS), operation_id="start_sync")
async def start(body: StartSync, services: ServicesDep, account: AccountDep) -> SyncStarted:
    """Begins a session that makes a bot's documents equal to those of the client. A bot has one session at a time."""
    session_id = await services.sync.start(body.chat_bot_id, account.resolve(body.account_name))
    return SyncStarted(session_id=session_id, lease_seconds=int(LEASE.total_seconds()))


@router.post(
    "/{session_id}/documents",
    dependencies=[WRITE],
    response_model=BatchInserted,
    responses=error_responses(404, 409, 502, *BODY_ERRORS),
    operation_id="sync_documents",
)
async def batch(
    request: Request,
    session_id: SessionPath,
    bot_id: BotQuery,
    body: InsertManyBody,
    services: ServicesDep,
    account: AccountDep,
    limits: LimitsDep,
) -> BatchInserted:
    """Stores those of these documents that are new or changed. Each must have an external_id.

    The body and the response are those of a batch insert. To send the same documents again changes nothing.
    """
    timings = Stopwatch()
    check_no_option(body.on_conflict, "a session always replaces what has changed")
    entries: list[tuple[UUID, NewDocument] | AppError] = []
    for index, one in enumerate(check_documents(body.documents, limits)):
        if isinstance(one, Item) and one.document.chat_bot_id != bot_id:
            location = f"body.documents.{index}.document.chat_bot_id"
            entries.append(InvalidInput.at(location, OTHER_BOT))
        else:
            entries.append((bot_id, one.new_document()) if isinstance(one, Item) else one)
    owner = account.resolve(body.account_name)
    writes: ConcurrencyLimiter = request.state.writes
    async with writes.slot(request, owner):
        outcomes = await services.sync.batch(bot_id, owner, session_id, entries, timings)
    return batch_inserted(body.documents, outcomes, timings)


@router.post(
    "/{session_id}/finish",
    dependencies=[WRITE],
    responses=error_responses(404, 409, *BODY_ERRORS),
    operation_id="finish_sync",
)
async def finish(session_id: SessionPath, body: FinishSync, services: ServicesDep, account: AccountDep) -> SyncFinished:
    """Ends a session; with delete_missing it deletes what the client does not have.

    After a 503 or a lost connection, send the call again.
    """
    owner = account.resolve(body.account_name)
    done = await services.sync.finish(body.chat_bot_id, owner, session_id, delete_missing=body.delete_missing)
    return SyncFinished(deleted_documents=done.documents, deleted_chunks=done.chunks)


@router.delete(
    "/{session_id}", dependencies=[WRITE], responses=error_responses(404, *COMMON_ERRORS), operation_id="cancel_sync"
)
async def cancel(
    session_id: SessionPath, bot_id: BotQuery, services: ServicesDep, account: AccountQuery
) -> SyncCancelled:
    """Ends a session and deletes nothing. What it has stored stays."""
    await services.sync.cancel(bot_id, account, session_id)
    return SyncCancelled(session_id=session_id)
