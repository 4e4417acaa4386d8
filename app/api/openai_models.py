"""Routes of /v1/models: the models that this server runs, by OpenAI's API."""

from typing import Annotated

from fastapi import APIRouter, Path

from app.api.deps import READ, ServicesDep
from app.api.errors import COMMON_ERRORS, error_responses
from app.core.embedding.models import RunningModel
from app.models.openai_models import Model, ModelList

router = APIRouter(prefix="/v1", tags=["embeddings"], dependencies=[READ])

ModelPath = Annotated[
    str,
    Path(
        description="An id of the list, or a name that /v1/embeddings or /v1/rerank accepts.",
        examples=["use-multilingual"],
    ),
]


@router.get("/models", responses=error_responses(*COMMON_ERRORS), operation_id="list_models")
async def list_models(services: ServicesDep) -> ModelList:
    """The models of this server: the embedding model is the first, the reranker the last."""
    return ModelList(data=[_model(running) for running in services.models])


@router.get("/models/{model:path}", responses=error_responses(404, *COMMON_ERRORS), operation_id="get_model")
async def get_model(model: ModelPath, services: ServicesDep) -> Model:
    """One model of this server."""
    return _model(services.models.find(model))


def _model(running: RunningModel) -> Model:
    return Model(id=running.name, owned_by=running.provider, task=running.task)
