"""python -m app.cli: what an operator does beside the server."""

import argparse
import asyncio
import sys

from tqdm import tqdm

from app.config import Settings
from app.core.services import open_services, open_stores, open_verifier
from app.core.stores.migrations import schema_sql
from app.core.verify import Finding, Verifier
from app.utils.errors import AppError, StartupError
from app.utils.logging import configure


async def verify(settings: Settings) -> int:
    """Prints each finding on a line of its own; returns their number."""
    async with open_verifier(settings) as verifier:
        return await _report(verifier)


async def repair(settings: Settings) -> int:
    """Mends what verify finds, prints it, and then what is left; returns how much that is."""
    mended = 0
    async with open_services(settings) as services:
        await services.repairer.end_forgotten()
        for bot in tqdm(await services.verifier.bots(), desc="repair", unit="bot", disable=None):
            try:
                async for finding in services.repairer.repair_bot(bot.bot_id):
                    mended += 1
                    _write("mended", finding)
            except AppError as exc:
                tqdm.write(f"bot={bot.bot_id} cannot be mended: {exc.detail}", file=sys.stdout)
        print(f"{mended} mended")
        return await _report(services.verifier)


async def _report(verifier: Verifier) -> int:
    findings = 0
    async for finding in verifier.check_all():
        findings += 1
        _write("found", finding)
    for bot in tqdm(await verifier.bots(), desc="verify", unit="bot", disable=None):
        async for finding in verifier.check_bot(bot):
            findings += 1
            _write("found", finding)
    print(f"{findings} findings" if findings else "stores agree")
    return findings


def _write(what: str, finding: Finding) -> None:
    bot = f" bot={finding.bot_id}" if finding.bot_id else ""
    tqdm.write(f"{what} {finding.kind}{bot} {finding.detail}", file=sys.stdout)


async def migrate(settings: Settings) -> None:
    async with open_stores(settings):
        print("schema is up to date")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m app.cli", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("verify", help="compare PostgreSQL and Milvus; exits 1 when they disagree")
    commands.add_parser("repair", help="mend what verify finds, while the server serves; exits 1 if something is left")
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
        compare = repair if arguments.command == "repair" else verify
        return 1 if asyncio.run(compare(settings)) else 0
    except (StartupError, AppError) as exc:
        print(exc, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
