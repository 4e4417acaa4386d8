"""The body of every error: RFC 9457 problem details."""

from app.models.base import Response


class ProblemPlace(Response):
    loc: str
    msg: str


class Problem(Response):
    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[ProblemPlace] | None = None
