"""/v1/models: what this server runs, told as OpenAI's clients ask for it."""

from typing import Annotated

from fastapi import APIRouter, Path

from app.api.deps import READ, ServicesDep
from app.api.errors import COMMON_ERRORS, error_responses
from app.core.embedding.models import RunningModel
from app.models.openai_models import Model, ModelList

router = APIRouter(prefix="/v1", tags=["embeddings"], dependencies=[READ])

ModelPath = Annotated[
    str, Path(description="As in the list, or as /v1/embeddings and /v1/rerank take it.", examples=["use-multilingual"])
]


@router.get("/models", responses=error_responses(*COMMON_ERRORS), operation_id="list_models")
async def list_models(services: ServicesDep) -> ModelList:
    """The models of this server: the embedding model first, the reranker last."""
    return ModelList(data=[_model(running) for running in services.models])


@router.get("/models/{model:path}", responses=error_responses(404, *COMMON_ERRORS), operation_id="get_model")
async def get_model(model: ModelPath, services: ServicesDep) -> Model:
    """One of them."""
    return _model(services.models.find(model))


def _model(running: RunningModel) -> Model:
    return Model(id=running.name, owned_by=running.provider, task=running.task)
