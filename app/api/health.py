"""Routes of /health: for orchestrators and load balancers."""

from typing import Any, Literal

from fastapi import APIRouter, Request, Response

from app.api.auth import caller_of, optional_scope
from app.api.deps import OPEN, ServicesDep
from app.api.errors import error_responses
from app.core.services import Services
from app.models.health import Alive, DependencyState, HealthReport
from app.utils.lifecycle import process

router = APIRouter(prefix="/health", tags=["health"], dependencies=[OPEN])

UNAVAILABLE: dict[int | str, dict[str, Any]] = {
    503: {
        "model": HealthReport,
        "description": "PostgreSQL, Milvus or the embedder does not answer, or the process is stopping.",
    }
}


@router.get("", responses={**UNAVAILABLE, **error_responses(401, 403)}, operation_id="health")
async def health(request: Request, services: ServicesDep, response: Response) -> HealthReport:
    """The same as ready. With HEALTH_OPEN=false it requires an API key."""
    if not request.state.health_open:
        (await caller_of(request)).require_scope("read")
    return await _report(services, response, detailed=True)


@router.get("/ready", responses=UNAVAILABLE, operation_id="ready")
async def ready(request: Request, services: ServicesDep, response: Response) -> HealthReport:
    """200 if PostgreSQL, Milvus and the embedder all answer; 503 if not, or if the process is stopping.

    Calls within one second share one check.

    A store without space for writes is ``full`` and the status ``degraded``. That is a 200, since searches still work.
    With HEALTH_OPEN=false, ``dependencies`` is empty without an API key.
    """
    return await _report(
        services, response, detailed=request.state.health_open or await optional_scope(request, "read")
    )


async def _report(services: Services, response: Response, *, detailed: bool) -> HealthReport:
    dependencies = await services.health.check()
    all_up = all(dependency.up for dependency in dependencies) and not process.draining
    response.status_code = 200 if all_up else 503
    if not all_up:
        response.headers["Retry-After"] = "2"
    status: Literal["ok", "degraded"] = "degraded" if any(dependency.full for dependency in dependencies) else "ok"
    return HealthReport(
        status="stopping" if process.draining else status if all_up else "unavailable",
        dependencies={
            dependency.name: DependencyState(
                status="full" if dependency.full else "up" if dependency.up else "down",
                latency_ms=dependency.latency_ms,
            )
            for dependency in (dependencies if detailed else ())
        },
    )


@router.get("/live", operation_id="live")
async def live() -> Alive:
    """200 as long as this process runs. Checks nothing else."""
    return Alive()


router.add_api_route("", health, methods=["HEAD"], include_in_schema=False)
router.add_api_route("/ready", ready, methods=["HEAD"], include_in_schema=False)
router.add_api_route("/live", live, methods=["HEAD"], include_in_schema=False)
