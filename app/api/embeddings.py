"""Routes of /v1/embeddings: the server's embedding model, by OpenAI's API."""

from base64 import b64encode
from typing import Literal

import numpy as np
import orjson
from fastapi import APIRouter, Response

from app.api.deps import READ, ServicesDep
from app.api.errors import BODY_ERRORS, error_responses
from app.api.limits import LimitsDep, check_query
from app.core.embedding.port import Vectors
from app.models.embeddings import QUERY_TYPES, EmbeddingsAnswer, EmbeddingsRequest

router = APIRouter(prefix="/v1", tags=["embeddings"])


@router.post(
    "/embeddings",
    dependencies=[READ],
    response_model=EmbeddingsAnswer,
    responses=error_responses(404, 502, *BODY_ERRORS),
    operation_id="create_embeddings",
)
async def embeddings(body: EmbeddingsRequest, services: ServicesDep, limits: LimitsDep) -> Response:
    """The vectors that this server would store for these texts, or search with. Compatible with OpenAI's clients."""
    texts = body.texts()
    check_query(texts, limits)
    queries = body.input_type in QUERY_TYPES
    embedded = await services.embed.vectors(body.model, texts, body.dimensions, queries=queries)
    characters = sum(map(len, texts))
    answer = {
        "object": "list",
        "data": _data(embedded.vectors, body.encoding_format),
        "model": embedded.model,
        "usage": {"prompt_tokens": characters, "total_tokens": characters},
    }
    return Response(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


def _data(vectors: Vectors, encoding: Literal["float", "base64"]) -> list[dict[str, object]]:
    # orjson writes a float32 row directly. As EmbeddingsAnswer, 2,048 vectors would be a million Python floats.
    rows = np.ascontiguousarray(vectors, dtype="<f4")
    return [
        {
            "object": "embedding",
            "index": index,
            "embedding": row if encoding == "float" else b64encode(row.tobytes()).decode("ascii"),
        }
        for index, row in enumerate(rows)
    ]
