"""What all bodies share."""

from pydantic import BaseModel, ConfigDict


class Request(BaseModel):
    """A request body. An unknown field is an error: a misspelt filter must not do nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Response(BaseModel):
    # What always stands in an answer is required in its schema, though the model has a default for it.
    model_config = ConfigDict(frozen=True, from_attributes=True, json_schema_serialization_defaults_required=True)
