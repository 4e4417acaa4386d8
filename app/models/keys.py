"""Request and response bodies of /keys."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from app.models.base import Request, Response
from app.models.fields import AccountName, Author
from app.schemas.operation_rows import Scope

MAX_DAYS = 36_500


class CreateKey(Request):
    model_config = ConfigDict(json_schema_extra={"examples": [{"account_name": "chatty", "scope": "read"}]})

    account_name: AccountName | None = Field(
        None, description="The account whose bots the key is for. Omitted for the scope operator, and only there."
    )
    scope: Scope = Field(description="Each scope includes those before it: read, write, admin, operator.")
    note: Author | None = Field(None, description="Where the key is used.")
    days: Annotated[float, Field(gt=0, le=MAX_DAYS)] | None = Field(
        None, description="Days until the key expires. Default: never."
    )

    @model_validator(mode="after")
    def _has_an_account(self) -> Self:
        if (self.account_name is None) != (self.scope == "operator"):
            raise PydanticCustomError("account_of_key", "needs account_name, except with the scope operator")
        return self


class KeyCreated(Response):
    status: Literal["success"] = "success"
    key: str = Field(description="The key. It cannot be shown again.")


class KeyInfo(Response):
    prefix: str = Field(description="The beginning of the key, by which it is revoked.")
    account_name: str | None = Field(description="null: an operator's, for the bots of every account.")
    scopes: list[Scope]
    note: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    usable: bool = Field(description="Neither revoked nor expired.")


class KeyList(Response):
    status: Literal["success"] = "success"
    keys: list[KeyInfo]


class OwnKey(Response):
    status: Literal["success"] = "success"
    account_name: str | None = Field(description="null: the bots of every account.")
    scope: Scope


class KeyRevoked(Response):
    status: Literal["success"] = "success"
    prefix: str
