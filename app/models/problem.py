"""The body of every error: RFC 9457 problem details."""

from pydantic import ConfigDict, Field

from app.models.base import Response


class ProblemPlace(Response):
    loc: str = Field(description="Such as body.chunks.0.text.")
    msg: str


class RebuildProgress(Response):
    chunks_indexed: int
    chunks_total: int


class Problem(Response):
    """RFC 9457 problem details."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    type: str = Field(description="urn:problem: and the code.")
    title: str
    status: int
    detail: str = Field(description="For people.")
    code: str = Field(description="For programs; it stays the same from release to release.")
    request_id: str = Field(description="The server's log has it too.")
    errors: list[ProblemPlace] | None = Field(None, description="What is wrong where, at most 50 places.")
    progress: RebuildProgress | None = Field(None, description="Of index_rebuilding: how far it is.")


class OpenAIError(Response):
    message: str
    type: str
    param: str | None
    code: str


class OpenAIProblem(Problem):
    """What clients of OpenAI look for, beside the members of RFC 9457."""

    error: OpenAIError
