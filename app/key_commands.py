"""python -m app.cli keys: creates, lists and revokes API keys."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from pydantic import TypeAdapter, ValidationError

from app.config import Settings
from app.core.commands import open_keys
from app.models.fields import AccountName
from app.schemas.operation_rows import SCOPES, Scope


async def create_key(
    settings: Settings, account: str | None, scopes: Sequence[Scope], note: str, days: float | None
) -> None:
    """Prints only the key on standard output, for scripts."""
    async with open_keys(settings) as admin:
        key = await admin.create(account, scopes, note, None if days is None else timedelta(days=days))
    owner = "an operator" if account is None else repr(account)
    print(f"The key of {owner} ({', '.join(scopes)}). It cannot be shown again:", file=sys.stderr)
    print(key)


async def list_keys(settings: Settings, account: str | None) -> None:
    async with open_keys(settings) as admin:
        for key in await admin.list(account):
            state = "usable" if key.usable else "revoked" if key.revoked_at else "expired"
            expires = f" expires={key.expires_at:%Y-%m-%dT%H:%MZ}" if key.expires_at else ""
            note = f" note={key.note!r}" if key.note else ""
            scopes, created = ",".join(key.scopes), f"{key.created_at:%Y-%m-%dT%H:%MZ}"
            owner = "" if key.account_name is None else f" account={key.account_name!r}"
            print(f"{key.prefix} {state}{owner} scopes={scopes} created={created}{expires}{note}")


async def revoke_key(settings: Settings, key: str) -> int:
    async with open_keys(settings) as admin:
        revoked = await admin.revoke(key)
    if revoked:
        print(f"revoked; servers accept it for at most {settings.api_key_cache_ttl:g} seconds more")
        return 0
    print("there is no such key, or it is revoked already", file=sys.stderr)
    return 1


def run_key_command(settings: Settings, arguments: argparse.Namespace) -> int:
    if arguments.action == "revoke":
        return asyncio.run(revoke_key(settings, arguments.key))
    if arguments.action == "list":
        asyncio.run(list_keys(settings, arguments.account))
    else:
        scopes = arguments.scope or ["read"]
        if (arguments.account is None) != ("operator" in scopes):
            print(
                "a key needs --account NAME, except with --scope operator, which is for all accounts", file=sys.stderr
            )
            return 2
        asyncio.run(create_key(settings, arguments.account, scopes, arguments.note, arguments.days))
    return 0


def _account(text: str) -> str:
    try:
        return TypeAdapter(AccountName).validate_python(text)
    except ValidationError as exc:
        raise argparse.ArgumentTypeError(exc.errors()[0]["msg"]) from None


def _days(text: str) -> float:
    if not 0 < float(text) <= 36_500:
        raise argparse.ArgumentTypeError("should be above 0 and at most 36,500")
    return float(text)


def add_key_commands(commands: Any) -> None:
    actions = commands.add_parser("keys", help="API keys").add_subparsers(dest="action", required=True)
    create = actions.add_parser("create", help="create a key and print it; it cannot be printed again")
    create.add_argument("--account", type=_account, help="the account whose bots the key is for")
    create.add_argument(
        "--scope",
        action="append",
        choices=SCOPES,
        help="default: read; each scope includes those before it; operator is for the bots of every account",
    )
    create.add_argument("--days", type=_days, help="days until the key expires; default: never")
    create.add_argument("--note", default="", help="where the key is used; shown by list")
    list_ = actions.add_parser("list", help="list all keys, also expired and revoked ones, by their first characters")
    list_.add_argument("--account", type=_account, help="only keys of this account")
    revoke = actions.add_parser("revoke", help="revoke a key")
    revoke.add_argument("key", metavar="PREFIX", help="cm_ and 8 characters, as list shows it")
