"""The Endpoint of each provider over the network, by its name in EMBEDDING_MODEL. Sources: docs/EMBEDDINGS.md."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from app.config import Settings
from app.core.embedding.providers.endpoint import DIMENSIONS, Endpoint
from app.utils.errors import StartupError

PRESETS: Mapping[str, Endpoint] = MappingProxyType(
    {
        "openai": Endpoint(model="text-embedding-3-small"),
        "upstage": Endpoint(
            base_url="https://api.upstage.ai/v1",
            model="solar-embedding-2-passage",
            request_texts=100,
            limits_known=True,
        ),
        "voyage": Endpoint(
            base_url="https://api.voyageai.com/v1",
            model="voyage-4",
            query_body={"input_type": "query", "truncation": False},
            document_body={"input_type": "document", "truncation": False},
            dimensions_field="output_dimension",
            request_texts=1_000,
            request_tokens=120_000,
            input_tokens=32_000,
            limits_known=True,
            refuses_long=True,
        ),
        "cohere": Endpoint(
            base_url="https://api.cohere.com/v2",
            model="embed-v4.0",
            form="cohere",
            query_body={"input_type": "search_query", "truncate": "NONE"},
            document_body={"input_type": "search_document", "truncate": "NONE"},
            encoding_format="float",
            dimensions_field="output_dimension",
            request_texts=96,
            input_tokens=128_000,
            limits_known=True,
            refuses_long=True,
        ),
        "jina": Endpoint(
            base_url="https://api.jina.ai/v1",
            model="jina-embeddings-v5-text-small",
            query_body={"task": "retrieval.query"},
            document_body={"task": "retrieval.passage"},
            encoding_format="none",
            request_texts=512,
            input_tokens=32_768,
            limits_known=True,
        ),
        "gemini": Endpoint(
            base_url="https://generativelanguage.googleapis.com/v1beta/openai",
            model="gemini-embedding-001",
            encoding_format="float",
            request_texts=100,
            input_tokens=2_048,
            limits_known=True,
        ),
        "nvidia": Endpoint(
            base_url="https://integrate.api.nvidia.com/v1",
            model="nvidia/llama-3.2-nv-embedqa-1b-v2",
            query_body={"input_type": "query", "truncate": "NONE"},
            document_body={"input_type": "passage", "truncate": "NONE"},
            request_texts=50,
            refuses_long=True,
        ),
        "clova": Endpoint(
            base_url="https://clovastudio.stream.ntruss.com/v1/openai",
            model="bge-m3",
            request_texts=1,
            limits_known=True,
        ),
        "tei": Endpoint(base_url="http://127.0.0.1:8080/v1", request_texts=32, limits_known=True),
        "vllm": Endpoint(base_url="http://127.0.0.1:8000/v1", refuses_long=True),
        "ollama": Endpoint(base_url="http://127.0.0.1:11434/v1"),
    }
)
MODEL_PAIRS = {"upstage": ("-passage", "-query")}
"""For providers with a model for documents and one for queries: the last parts of the two models' names."""


def endpoint_for(settings: Settings) -> Endpoint:
    """The preset of EMBEDDING_MODEL, overridden by the settings that are set. Raises StartupError without a model."""
    name = settings.embedding_model
    given: dict[str, Any] = {
        "base_url": settings.openai_base_url,
        "model": settings.openai_model,
        "query_model": settings.openai_query_model,
        "query_prefix": settings.openai_query_prefix,
        "document_prefix": settings.openai_document_prefix,
        "query_body": settings.openai_query_extra_body,
        "document_body": settings.openai_document_extra_body,
        "encoding_format": settings.openai_encoding_format,
        "dimensions_field": settings.openai_dimensions_field,
        "request_texts": settings.embedding_batch_size,
        "request_tokens": settings.openai_max_request_tokens,
        "input_tokens": settings.openai_max_input_tokens,
    }
    endpoint = replace(PRESETS[name], **{key: value for key, value in given.items() if value is not None})
    if not endpoint.model:
        raise StartupError(f"EMBEDDING_MODEL={name} needs OPENAI_MODEL: the name of the model that it serves.")
    document_suffix, query_suffix = MODEL_PAIRS.get(name, ("", ""))
    if document_suffix and endpoint.query_model is None and endpoint.model.endswith(document_suffix):
        endpoint = replace(endpoint, query_model=endpoint.model.removesuffix(document_suffix) + query_suffix)
    return replace(
        endpoint,
        limits_known=endpoint.limits_known or settings.embedding_batch_size is not None or endpoint.base_url is None,
        refuses_long=endpoint.refuses_long or endpoint.model in DIMENSIONS,
    )
