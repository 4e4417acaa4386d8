"""Bodies of /quotas and /usage."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, Strict

from app.models.base import Request, Response
from app.models.fields import INT64_MAX, AccountName, Integral

Limit = Annotated[int, Strict(), Field(ge=0, le=INT64_MAX), Integral]


class SetQuota(Request):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"account_name": "trial", "bots": 3, "documents": 10_000, "chunks": 200_000}]}
    )

    account_name: AccountName
    bots: Limit | None = Field(None, description="The most bots that the account may have. Omitted or null: no limit.")
    documents: Limit | None = Field(None, description="The same for documents of all its bots together.")
    chunks: Limit | None = Field(None, description="The same for chunks.")
    recount: Annotated[bool, Strict()] | None = Field(
        None, description="Counts again what is counted already. Default: false."
    )


class UsedInfo(Response):
    bots: int
    documents: int
    chunks: int


class QuotaInfo(Response):
    bots: int | None = Field(description="null: no limit.")
    documents: int | None
    chunks: int | None


class AccountUsageInfo(Response):
    account_name: str
    used: UsedInfo
    quota: QuotaInfo


class UsageList(Response):
    status: Literal["success"] = "success"
    accounts: list[AccountUsageInfo]


class QuotaSet(AccountUsageInfo):
    status: Literal["success"] = "success"
