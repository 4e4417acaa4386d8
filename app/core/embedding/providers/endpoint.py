"""An endpoint of the embeddings API of OpenAI or Cohere: its address, its limits and the bodies of its requests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal

import orjson

EncodingFormat = Literal["base64", "float", "none"]
"""The value of ``encoding_format`` in requests; "none" leaves the field out."""
Form = Literal["openai", "cohere"]
"""The API: OpenAI's ``/embeddings``, or Cohere's ``/embed`` (v2)."""

REQUEST_TEXTS = 2_048
REQUEST_TOKENS = 300_000
INPUT_TOKENS = 8_192
"""OpenAI's limits (https://platform.openai.com/docs/api-reference/embeddings/create)."""
DIMENSIONS = {"text-embedding-3-small": 1_536, "text-embedding-3-large": 3_072, "text-embedding-ada-002": 1_536}
"""The dimensions of OpenAI's models."""
NOT_IN_IDENTITY = frozenset(
    {"dimensions", "output_dimension", "truncate", "truncation", "truncate_prompt_tokens", "priority", "user"}
)
"""Request fields that do not change the vector of a text that fits. The dimension is in the bot's row by itself."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a provider over the network needs. ``presets`` has one for each name; settings override single fields."""

    base_url: str | None = None
    """None: OpenAI's own."""
    model: str = ""
    """The model for documents, and for queries if ``query_model`` is None."""
    query_model: str | None = None
    query_prefix: str = ""
    """Put before each query."""
    document_prefix: str = ""
    """Put before each document text."""
    query_body: Mapping[str, Any] = field(default_factory=dict)
    """Fields added to each request with queries."""
    document_body: Mapping[str, Any] = field(default_factory=dict)
    """Fields added to each request with documents."""
    encoding_format: EncodingFormat = "base64"
    dimensions_field: str = "dimensions"
    """The request field that asks for a dimension."""
    form: Form = "openai"
    request_texts: int = REQUEST_TEXTS
    """Texts of a request."""
    request_tokens: int = REQUEST_TOKENS
    """Tokens of a request."""
    input_tokens: int = INPUT_TOKENS
    """Tokens of a text."""
    limits_known: bool = False
    """``request_texts`` is the provider's limit. If false it is a guess, and the limit is learned from its errors."""
    refuses_long: bool = False
    """The provider refuses a text of too many tokens. If false, it is tested at start whether it truncates."""

    @property
    def identity(self) -> str:
        """``Embedder.model``: changes exactly when the vectors of stored texts change.

        ``openai:model``, and if a prefix or fields are sent with documents, ``@`` and 12 digits of a hash over them.
        """
        fields = {name: value for name, value in self.document_body.items() if name not in NOT_IN_IDENTITY}
        if not self.document_prefix and not fields:
            return f"openai:{self.model}"
        digest = sha256(orjson.dumps([self.document_prefix, fields], option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]
        return f"openai:{self.model}@{digest}"

    @property
    def queries_differ(self) -> bool:
        """Whether the request for a query differs from the one for a document with the same text."""
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
        """The body of a request, as JSON values. ``encoding`` overrides ``encoding_format``."""
        model = self.query_model if query and self.query_model else self.model
        prefix = self.prefix(query=query)
        sent = [prefix + text for text in texts] if prefix else texts
        encoding = encoding or self.encoding_format
        request: dict[str, Any] = {"model": model}
        if self.form == "cohere":
            request |= {"texts": sent, "embedding_types": ["float" if encoding == "none" else encoding]}
        else:
            # Some providers of one text per request accept a string only, not a list.
            request["input"] = sent[0] if self.request_texts == 1 else sent
            if encoding != "none":
                request["encoding_format"] = encoding
        if dimensions is not None:
            request[self.dimensions_field] = dimensions
        return {**request, **(self.query_body if query else self.document_body)}
