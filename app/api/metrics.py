"""Route of /metrics: for Prometheus."""

from ipaddress import ip_address

from fastapi import APIRouter, Request, Response

from app.api.auth import caller_of
from app.api.deps import OPEN, ServicesDep
from app.api.errors import error_responses
from app.utils import metrics

router = APIRouter(tags=["metrics"])


@router.get(
    "/metrics",
    dependencies=[OPEN],
    operation_id="metrics",
    response_class=Response,
    responses={
        200: {
            "content": {"text/plain": {"schema": {"type": "string"}}},
            "description": "Prometheus text format.",
        },
        **error_responses(401, 403),
    },
)
async def read(request: Request, services: ServicesDep) -> Response:
    """Counters, gauges and histograms of this server. Requires an admin key, except from the same machine."""
    if not _is_local(request):
        (await caller_of(request)).require_scope("admin")
    await services.metrics_sampler.refresh()
    return Response(metrics.exposition(), media_type=metrics.CONTENT_TYPE)


def _is_local(request: Request) -> bool:
    """Behind a proxy on this machine every caller is local. Such a proxy must not forward /metrics."""
    if request.client is None:  # For example on a Unix socket, where a proxy may forward any caller.
        return False
    try:
        return ip_address(request.client.host).is_loopback
    except ValueError:
        return False
