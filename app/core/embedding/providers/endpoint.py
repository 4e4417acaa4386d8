"""How an endpoint that speaks as OpenAI's embeddings API does is asked, for documents and for queries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal

import orjson

EncodingFormat = Literal["base64", "float", "none"]
"""How vectors are asked for; ``none`` leaves the field out."""
Form = Literal["openai", "cohere"]
"""Of the request and its answer: OpenAI's ``/embeddings``, or Cohere's ``/embed`` (v2)."""

REQUEST_TEXTS = 2_048
REQUEST_TOKENS = 300_000
INPUT_TOKENS = 8_192
"""OpenAI's limits (https://platform.openai.com/docs/api-reference/embeddings/create)."""
DIMENSIONS = {"text-embedding-3-small": 1_536, "text-embedding-3-large": 3_072, "text-embedding-ada-002": 1_536}
"""Of OpenAI's own models."""
NEUTRAL = frozenset(
    {"dimensions", "output_dimension", "truncate", "truncation", "truncate_prompt_tokens", "priority", "user"}
)
"""Fields of a request that change no vector of a text that is taken whole. The dimension is registered by itself."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``model`` embeds documents; ``query_model`` queries, where that is another one.

    The prefixes go before each text, the bodies into each request. ``limits_known``: ``request_texts`` is what the
    endpoint takes, not a guess. ``refuses_long``: a text that is longer than the model reads is refused, not cut.
    """

    base_url: str | None = None
    model: str = ""
    query_model: str | None = None
    query_prefix: str = ""
    document_prefix: str = ""
    query_body: Mapping[str, Any] = field(default_factory=dict)
    document_body: Mapping[str, Any] = field(default_factory=dict)
    encoding_format: EncodingFormat = "base64"
    dimensions_field: str = "dimensions"
    form: Form = "openai"
    request_texts: int = REQUEST_TEXTS
    request_tokens: int = REQUEST_TOKENS
    input_tokens: int = INPUT_TOKENS
    limits_known: bool = False
    refuses_long: bool = False

    @property
    def identity(self) -> str:
        """The name that is written to a bot's registry row: all that changes stored vectors, and nothing else.

        A model that is asked plainly is ``openai:model``. A prefix or field that documents are sent with adds 12
        digits of a hash over them.
        """
        meant = {name: value for name, value in self.document_body.items() if name not in NEUTRAL}
        if not self.document_prefix and not meant:
            return f"openai:{self.model}"
        mark = sha256(orjson.dumps([self.document_prefix, meant], option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]
        return f"openai:{self.model}@{mark}"

    @property
    def asks_queries_otherwise(self) -> bool:
        return self.body(["x"], query=True) != self.body(["x"], query=False)

    @property
    def path(self) -> str:
        return "/embed" if self.form == "cohere" else "/embeddings"

    def prefix(self, *, query: bool) -> str:
        return self.query_prefix if query else self.document_prefix

    def body(
        self,
        texts: Sequence[str],
        *,
        query: bool,
        encoding: EncodingFormat | None = None,
        dimensions: int | None = None,
    ) -> dict[str, Any]:
        """The request's body; ``encoding`` replaces the endpoint's own."""
        model = self.query_model if query and self.query_model else self.model
        prefix = self.prefix(query=query)
        sent = [prefix + text for text in texts] if prefix else texts
        encoding = encoding or self.encoding_format
        request: dict[str, Any] = {"model": model}
        if self.form == "cohere":
            request |= {"texts": sent, "embedding_types": ["float" if encoding == "none" else encoding]}
        else:
            # Where only one text is taken, the field may be no list at all.
            request["input"] = sent[0] if self.request_texts == 1 else sent
            if encoding != "none":
                request["encoding_format"] = encoding
        if dimensions is not None:
            request[self.dimensions_field] = dimensions
        return {**request, **(self.query_body if query else self.document_body)}
