"""The body of every error: RFC 9457 problem details."""

from pydantic import ConfigDict, Field

from app.models.base import Response
from app.models.streams import PartProgress


class ProblemLocation(Response):
    loc: str = Field(description="For example body.chunks.0.text.")
    msg: str


class RebuildProgress(Response):
    chunks_indexed: int
    chunks_total: int


class UsedUp(Response):
    name: str = Field(description="bots, documents or chunks.")
    used: int = Field(description="What the account has, with what is stored before this in the same request.")
    limit: int
    requested: int = Field(description="How many more the request needs.")


class Problem(Response):
    """RFC 9457 problem details."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    type: str = Field(description="urn:problem: followed by the code.")
    title: str
    status: int
    detail: str = Field(description="For people.")
    code: str = Field(description="For programs. Stable across releases.")
    request_id: str = Field(description="Also in the server's log.")
    errors: list[ProblemLocation] | None = Field(None, description="The location of each error, at most 50.")
    quota: UsedUp | None = Field(None, description="Only with quota_exceeded: which quota, and what is used.")
    progress: RebuildProgress | PartProgress | None = Field(
        None, description="Only with index_rebuilding, and of a part of a stream: how far it is."
    )


class OpenAIError(Response):
    message: str
    type: str
    param: str | None
    code: str


class OpenAIProblem(Problem):
    """RFC 9457 problem details with the member ``error``, which OpenAI's clients read."""

    error: OpenAIError
