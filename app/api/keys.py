"""Routes of /keys: API keys of all accounts, for operators."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Request

from app.api.auth import caller_of
from app.api.deps import OPERATOR, READ, AccountQuery, ServicesDep
from app.api.errors import BODY_ERRORS, COMMON_ERRORS, error_responses
from app.models.keys import CreateKey, KeyCreated, KeyInfo, KeyList, KeyRevoked, OwnKey
from app.schemas.operation_rows import SCOPES
from app.utils.errors import Forbidden, KeyNotFound

router = APIRouter(prefix="/keys", tags=["keys"])

PrefixPath = Annotated[
    str,
    Path(
        pattern="^cm_[a-z0-9]{8}$",
        description="cm_ and 8 characters, as the list shows it.",
        examples=["cm_0a1b2c3d"],
    ),
]


@router.get("/self", dependencies=[READ], responses=error_responses(*COMMON_ERRORS), operation_id="get_own_key")
async def own(request: Request) -> OwnKey:
    """The account and the scope of the key with which this call is made. Without API keys: the highest scope."""
    caller = await caller_of(request)
    return OwnKey(account_name=caller.account, scope=SCOPES[caller.rank])


@router.get("", dependencies=[OPERATOR], responses=error_responses(*COMMON_ERRORS), operation_id="list_keys")
async def list_keys(services: ServicesDep, account: AccountQuery) -> KeyList:
    """The keys of all accounts, oldest first, without their secrets; also expired and revoked ones."""
    found = await services.key_admin.list(account)
    return KeyList(keys=[KeyInfo.model_validate(key) for key in found])


@router.post(
    "", dependencies=[OPERATOR], status_code=201, responses=error_responses(*BODY_ERRORS), operation_id="create_key"
)
async def create(request: Request, body: CreateKey, services: ServicesDep) -> KeyCreated:
    """Makes a key and shows it once. With AUTH_DISABLED=true it is a 403: a key would outlive that setting."""
    if request.state.authenticator is None:
        raise Forbidden("Keys are created here only where keys are required: use python -m app.cli.", scope="operator")
    days = None if body.days is None else timedelta(days=body.days)
    return KeyCreated(key=await services.key_admin.create(body.account_name, [body.scope], body.note or "", days))


@router.delete(
    "/{prefix}", dependencies=[OPERATOR], responses=error_responses(404, *COMMON_ERRORS), operation_id="revoke_key"
)
async def revoke(prefix: PrefixPath, services: ServicesDep) -> KeyRevoked:
    """Revokes a key. Servers accept it for at most API_KEY_CACHE_TTL more seconds."""
    if not await services.key_admin.revoke(prefix):
        raise KeyNotFound("There is no such key, or it is revoked already.")
    return KeyRevoked(prefix=prefix)
