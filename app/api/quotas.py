"""Routes of /quotas and /usage: what accounts may store, and what they store."""

from fastapi import APIRouter

from app.api.deps import OPERATOR, READ, AccountQuery, ServicesDep
from app.api.errors import BODY_ERRORS, COMMON_ERRORS, error_responses
from app.models.quotas import AccountUsageInfo, QuotaSet, SetQuota, UsageList
from app.schemas.quotas import Quota

router = APIRouter(tags=["quotas"])


@router.get("/usage", dependencies=[READ], responses=error_responses(404, *COMMON_ERRORS), operation_id="get_usage")
async def usage(services: ServicesDep, account: AccountQuery) -> UsageList:
    """Bots, documents and chunks of the key's account, and its quota. For operators and without keys: of all accounts,
    or of the one that the request names."""
    found = await services.quotas.all() if account is None else [await services.quotas.usage(account)]
    return UsageList(accounts=[AccountUsageInfo.model_validate(one) for one in found])


@router.put("/quotas", dependencies=[OPERATOR], responses=error_responses(*BODY_ERRORS), operation_id="set_quota")
async def set_quota(body: SetQuota, services: ServicesDep) -> QuotaSet:
    """Sets the most that an account may store, in place of its quota so far. Without a limit it has none. What it
    stores already stays."""
    quota = Quota(body.bots, body.documents, body.chunks)
    return QuotaSet.model_validate(await services.quotas.set(body.account_name, quota, recount=body.recount is True))
