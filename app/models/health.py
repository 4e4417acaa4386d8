"""Response bodies of /health."""

from typing import Literal

from app.models.base import Response
from app.models.fields import Milliseconds


class DependencyState(Response):
    status: Literal["up", "full", "down"]
    latency_ms: Milliseconds


class HealthReport(Response):
    status: Literal["ok", "degraded", "unavailable", "stopping"]
    dependencies: dict[str, DependencyState]


class Alive(Response):
    status: Literal["ok"] = "ok"
