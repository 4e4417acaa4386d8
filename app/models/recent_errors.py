"""Response body of /errors."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from app.models.base import Response


class RequestError(Response):
    request_id: str = Field(description="As in the problem document and in the header X-Request-Id.")
    at: datetime
    method: str
    route: str = Field(description="Template of the path.")
    http_status: int
    code: str | None = Field(description="As in the problem document; null if the answer had another form.")


class RecentErrorList(Response):
    status: Literal["success"] = "success"
    errors: list[RequestError] = Field(description="The newest first.")
