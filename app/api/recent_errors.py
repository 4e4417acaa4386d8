"""Route of /errors: the last requests of this process that failed, for operators."""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from app.api.deps import OPERATOR
from app.api.errors import COMMON_ERRORS, error_responses
from app.models.recent_errors import RecentErrorList, RequestError
from app.utils.recent_errors import KEPT, RecentErrors

router = APIRouter(prefix="/errors", tags=["health"])


@router.get("", dependencies=[OPERATOR], responses=error_responses(*COMMON_ERRORS), operation_id="list_errors")
async def list_errors(
    request: Request,
    request_id: Annotated[
        str | None, Query(pattern="^[A-Za-z0-9._-]{1,64}$", description="Only errors of this request.")
    ] = None,
    server_only: Annotated[bool, Query(description="Only errors of the server: status 500 and above.")] = False,
    limit: Annotated[int, Query(ge=1, le=2 * KEPT, description="Maximum number of errors.")] = 100,
) -> RecentErrorList:
    """The last requests to this server process that ended in an error, without anything that they sent.

    The last 200 errors of the server and the last 200 refusals (4xx) are kept in memory, without health checks.
    """
    recent: RecentErrors = request.state.recent_errors
    found = recent.find(request_id, limit, server_only=server_only)
    return RecentErrorList(
        errors=[
            RequestError(
                request_id=one.request_id,
                at=one.at,
                method=one.method,
                route=one.route,
                http_status=one.status,
                code=one.code,
            )
            for one in found
        ]
    )
