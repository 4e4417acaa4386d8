"""Route of exports: a bot as one file."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from app.api.deps import READ, AccountQuery, BotPath, ServicesDep
from app.api.errors import COMMON_ERRORS, error_responses
from app.core.transfer.format import compressed

router = APIRouter(prefix="/collection", tags=["collection"])

NDJSON, GZIP = "application/x-ndjson", "application/gzip"


@router.get(
    "/{chat_bot_id:bot}/export",
    dependencies=[READ],
    response_class=StreamingResponse,
    responses={
        200: {
            "content": {
                NDJSON: {"schema": {"type": "string"}},
                GZIP: {"schema": {"type": "string", "format": "binary"}},
            },
            "description": "A JSON object in each line: a manifest, the documents, the end with counts and SHA-256.",
        },
        **error_responses(404, 409, *COMMON_ERRORS),
    },
    operation_id="export_collection",
)
async def export(
    bot_id: BotPath,
    services: ServicesDep,
    account: AccountQuery,
    vectors: Annotated[
        bool, Query(description="With the vectors of the chunks. Without them an import embeds.")
    ] = True,
    gzip: Annotated[bool, Query(description="Compressed. The response is then a gzip file.")] = False,
) -> StreamingResponse:
    """All documents of a bot as one file, for an import. Each document is as it was at one moment of the export.

    An export without its last line was cut off: by a store that did not answer, by a deletion of the bot, or because
    the bot was moved to another model.
    """
    pieces = await services.exporter.open(bot_id, account, vectors=vectors)
    name = f"{bot_id}.ndjson{'.gz' if gzip else ''}"
    return StreamingResponse(
        _compressed(pieces) if gzip else pieces,
        media_type=GZIP if gzip else NDJSON,
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


async def _compressed(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """In a thread: the event loop serves others meanwhile."""
    async for piece in pieces:
        yield await asyncio.to_thread(compressed, piece)
