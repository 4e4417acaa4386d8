"""python -m app.cli: what an operator does beside the server."""

import argparse
import asyncio
import sys

from tqdm import tqdm

from app.config import Settings
from app.core.services import open_stores, open_verifier
from app.core.stores.migrations import schema_sql
from app.utils.errors import AppError, StartupError
from app.utils.logging import configure


async def verify(settings: Settings) -> int:
    """Prints each finding on a line of its own; returns their number."""
    findings = 0
    async with open_verifier(settings) as verifier:
        async for finding in verifier.check_all():
            findings += 1
            print(f"{finding.kind} {finding.detail}")
        for bot in tqdm(await verifier.bots(), desc="verify", unit="bot", disable=None):
            async for finding in verifier.check_bot(bot):
                findings += 1
                tqdm.write(f"{finding.kind} bot={finding.bot_id} {finding.detail}", file=sys.stdout)
    print(f"{findings} findings" if findings else "stores agree")
    return findings


async def migrate(settings: Settings) -> None:
    async with open_stores(settings):
        print("schema is up to date")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m app.cli", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("verify", help="compare PostgreSQL and Milvus; exits 1 when they disagree")
    migration = commands.add_parser("migrate", help="bring the database to the newest schema")
    migration.add_argument("--sql", action="store_true", help="print the whole schema for psql instead")
    arguments = parser.parse_args()
    try:
        if arguments.command == "migrate" and arguments.sql:
            sys.stdout.write(schema_sql())
            return 0
        settings = Settings()
        configure("WARNING")
        if arguments.command == "migrate":
            asyncio.run(migrate(settings))
            return 0
        return 1 if asyncio.run(verify(settings)) else 0
    except (StartupError, AppError) as exc:
        print(exc, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
