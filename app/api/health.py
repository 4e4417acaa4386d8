"""/health: for orchestrators."""

from typing import Any

from fastapi import APIRouter, Response

from app.api.deps import ServicesDep
from app.models.health import Alive, DependencyState, HealthReport
from app.utils.lifecycle import process

router = APIRouter(prefix="/health", tags=["health"])

UNAVAILABLE: dict[int | str, dict[str, Any]] = {
    503: {"model": HealthReport, "description": "Something this server needs does not answer."}
}


@router.get("", responses=UNAVAILABLE, operation_id="health")
@router.get("/ready", responses=UNAVAILABLE, operation_id="ready")
async def ready(services: ServicesDep, response: Response) -> HealthReport:
    """200 when PostgreSQL, Milvus and the embedder all answer now; 503 when not, or when the process is stopping."""
    dependencies = await services.health.check()
    all_up = all(dependency.up for dependency in dependencies) and not process.draining
    response.status_code = 200 if all_up else 503
    if not all_up:
        response.headers["Retry-After"] = "2"
    return HealthReport(
        status="stopping" if process.draining else "ok" if all_up else "unavailable",
        dependencies={
            dependency.name: DependencyState(status="up" if dependency.up else "down", latency_ms=dependency.latency_ms)
            for dependency in dependencies
        },
    )


@router.get("/live", operation_id="live")
async def live() -> Alive:
    """200 as long as this process answers; asks nobody else."""
    return Alive()
