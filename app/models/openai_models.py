"""Response bodies of /v1/models, as in OpenAI's API."""

from typing import Literal

from pydantic import Field

from app.models.base import Response


class Model(Response):
    id: str
    object: Literal["model"] = "model"
    created: int = Field(0, description="Always 0: not known.")
    owned_by: str = Field(description="The provider.")
    task: Literal["embed", "rerank"] = Field(description="The route that uses it: /v1/embeddings or /v1/rerank.")


class ModelList(Response):
    object: Literal["list"] = "list"
    data: list[Model]
