"""Base classes of request and response bodies."""

from pydantic import BaseModel, ConfigDict


class Request(BaseModel):
    """A request body. An unknown field is an error: a misspelt field must not be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Response(BaseModel):
    # A field that is always present is required in the schema, even if the model has a default for it.
    model_config = ConfigDict(frozen=True, from_attributes=True, json_schema_serialization_defaults_required=True)
