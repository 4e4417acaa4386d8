"""Rules of real providers, as far as they are documented or were reported: limits, fields, errors, truncation.

docs/EMBEDDINGS.md has the sources. A vector tells the side that was asked: that of ``text_of(side, text)``.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tests.embedding.openai_server import NATIVE, Body, Reply, item, tokens, vector

OPENAI_FIELDS = frozenset({"model", "input", "encoding_format", "dimensions", "user"})


def text_of(side: str, text: str) -> str:
    """What the stub makes a vector of."""
    return f"{side}|{text}"


@dataclass(frozen=True)
class Rules:
    """``side`` reads from a request whether it is for queries or documents, or raises ValueError with an error message.

    ``refuse`` makes an error's body of its message. ``truncated_at``: this many tokens of a text are read, without an
    error. ``refused_at``: a text of more tokens is refused.
    """

    side: Callable[[Body], str]
    texts: int
    fields: frozenset[str] = OPENAI_FIELDS
    strict: bool = True
    """Unknown fields are refused."""
    encodings: tuple[str | None, ...] = ("base64", "float", None)
    too_many: str = "at most {limit} inputs are allowed, {sent} were given"
    too_many_status: int = 400
    too_long: str = "maximum context length is {limit} tokens, but {sent} were requested"
    refuse: Callable[[str], Any] = lambda said: {"error": {"message": said, "type": "invalid_request_error"}}
    truncated_at: int | None = None
    refused_at: int | None = None
    counts_tokens: bool = True

    def __call__(self, body: Body) -> Reply:
        texts = body.get("input", body.get("texts"))
        texts = [texts] if isinstance(texts, str) else texts
        if self.strict and (unknown := sorted(body.keys() - self.fields)):
            return Reply(400, self.refuse(f"extra fields not permitted: {unknown}"))
        if (encoding := body.get("encoding_format")) not in self.encodings:
            return Reply(400, self.refuse(f"Value {encoding!r} provided for encoding_format is invalid"))
        try:
            side = self.side(body)
        except ValueError as refused:
            return Reply(400, self.refuse(str(refused)))
        if len(texts) > self.texts:
            said = self.too_many.format(limit=self.texts, sent=len(texts))
            return Reply(self.too_many_status, self.refuse(said))
        if self.refused_at and (longest := max(map(tokens, texts))) > self.refused_at:
            return Reply(400, self.refuse(self.too_long.format(limit=self.refused_at, sent=longest)))
        read = [text[: self.truncated_at] for text in texts]
        size = body.get("dimensions", body.get("output_dimension", NATIVE))
        if "texts" in body:
            vectors = [vector(text_of(side, text), size).tolist() for text in read]
            return Reply(200, {"id": "x", "embeddings": {"float": vectors}, "texts": read})
        data = [item(index, text_of(side, text), size, encoding or "float") for index, text in enumerate(read)]
        usage = {"prompt_tokens": sum(map(tokens, read)), "total_tokens": sum(map(tokens, read))}
        return Reply(
            200, {"object": "list", "model": "m", "data": data, "usage": usage if self.counts_tokens else None}
        )


def by_model(ends: dict[str, str]) -> Callable[[Body], str]:
    def side(body: Body) -> str:
        for end, name in ends.items():
            if body["model"].endswith(end):
                return name
        raise ValueError(f"The requested model {body['model']} does not exist.")

    return side


def by_field(field: str, values: dict[str, str], missing: str) -> Callable[[Body], str]:
    def side(body: Body) -> str:
        if body.get(field) not in values:
            raise ValueError(missing)
        return values[body[field]]

    return side


def plain(body: Body) -> str:
    return ""


BOTH = {"query": "query", "document": "document"}
UPSTAGE = Rules(by_model({"-query": "query", "-passage": "document"}), texts=100)
VOYAGE = Rules(
    by_field("input_type", BOTH, "Argument 'input_type' should be query or document"),
    texts=1_000,
    fields=frozenset(
        {"model", "input", "input_type", "truncation", "output_dimension", "output_dtype", "encoding_format"}
    ),
    encodings=("base64", None),
    refuse=lambda said: {"detail": said},
)
COHERE = Rules(
    by_field(
        "input_type",
        {"search_query": "query", "search_document": "document"},
        "invalid request: valid input_type must be provided with the provided model",
    ),
    texts=96,
    fields=frozenset({"model", "texts", "input_type", "embedding_types", "truncate", "output_dimension"}),
    too_many="invalid request: total number of texts must be at most {limit} - received {sent}",
    refuse=lambda said: {"message": said},
)
JINA = Rules(
    by_field("task", {"retrieval.query": "query", "retrieval.passage": "document"}, "Field 'task' is invalid"),
    texts=512,
    fields=frozenset({"model", "input", "task", "dimensions", "embedding_type", "truncate", "late_chunking"}),
    too_many="Validation error: 'body' Each input list can contain at most {limit} items.",
    refuse=lambda said: {"detail": said},
    refused_at=8_192,
)
GEMINI = Rules(
    plain,
    texts=100,
    encodings=("float", None),
    too_many="* BatchEmbedContentsRequest.requests: at most {limit} requests can be in one batch",
    refuse=lambda said: [{"error": {"code": 400, "message": said, "status": "INVALID_ARGUMENT"}}],
    counts_tokens=False,
)
NVIDIA = Rules(
    by_field(
        "input_type",
        {"query": "query", "passage": "document"},
        "'input_type' parameter is required for asymmetric models",
    ),
    texts=50,
    fields=OPENAI_FIELDS | {"input_type", "truncate"},
    too_long="Input length {sent} exceeds maximum allowed token size {limit}",
    refuse=lambda said: {"error": said},
    refused_at=512,
)
CLOVA = Rules(plain, texts=1)
TEI = Rules(
    plain,
    texts=32,
    strict=False,
    too_many="batch size {sent} > maximum allowed batch size {limit}",
    too_many_status=413,
    too_long="Input validation error: `inputs` must have less than {limit} tokens. Given: {sent}",
    refuse=lambda said: {"message": said, "code": 413, "type": "Validation"},
    truncated_at=512,
)
VLLM = Rules(
    plain,
    texts=100_000,
    fields=OPENAI_FIELDS | {"truncate_prompt_tokens", "priority"},
    too_long="This model's maximum context length is {limit} tokens. However, you requested {sent} tokens in the input "
    "for embedding generation. Please reduce the length of the input.",
    refuse=lambda said: {"object": "error", "message": said, "type": "BadRequestError", "param": None, "code": 400},
    refused_at=8_192,
)
OLLAMA = Rules(plain, texts=100_000, strict=False, truncated_at=2_048)
ALIBABA = replace(
    UPSTAGE,
    side=plain,
    texts=10,
    too_many="<400> InternalError.Algo.InvalidParameter: Value error, batch size is invalid, it should not be larger "
    "than {limit}.: input.contents",
)
MISTRAL = replace(ALIBABA, texts=512, too_many="Too many inputs in request, split into more batches.")
