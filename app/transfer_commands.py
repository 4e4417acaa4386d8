"""python -m app.cli export, restore-bot, backup and restore: their arguments."""

import argparse
import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, get_args
from uuid import UUID

from app.backup_command import backup, check_backup, restore
from app.config import Settings
from app.core.write.upsert import OnConflict
from app.export_command import export, restore_bot

COMMANDS = ("export", "restore-bot", "backup", "restore")


def add_transfer_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    of_export = commands.add_parser("export", help="write a bot to a file, while servers run")
    of_export.add_argument("file", type=Path, metavar="FILE", help="NDJSON; compressed if it ends with .gz")
    of_export.add_argument("--bot", type=UUID, required=True, help="chat_bot_id")
    restore_one = commands.add_parser(
        "restore-bot", help="store the documents of an export in a bot, while servers run"
    )
    restore_one.add_argument("file", type=Path, metavar="FILE", help="of export, or of GET /collection/ID/export")
    restore_one.add_argument(
        "--bot", type=UUID, help="chat_bot_id; it is made if it does not exist. Default: as before"
    )
    restore_one.add_argument(
        "--on-conflict",
        choices=get_args(OnConflict),
        default="error",
        help="where the bot has a document with the same external_id; default: it stays, and the exit code is 1",
    )
    restore_one.add_argument("--again", action="store_true", help="also store what an earlier run has stored")
    of_backup = commands.add_parser("backup", help="write all bots and API keys to a folder, while servers run")
    restore_all = commands.add_parser("restore", help="make the bots and API keys of a backup again")
    for command in (of_export, of_backup):
        command.add_argument("--no-vectors", action="store_true", help="smaller; to restore it embeds all texts")
    for command in (restore_one, restore_all):
        command.add_argument("--no-vectors", action="store_true", help="embed all texts")
    for command in (of_backup, restore_all):
        command.add_argument("folder", type=Path, metavar="DIR")
    of_backup.add_argument("--check", action="store_true", help="then read everything back and compare the hashes")
    restore_all.add_argument("--check", action="store_true", help="only read everything and compare the hashes")


def run_transfer_command(settings: Settings, arguments: argparse.Namespace) -> int:
    """The exit code. Raises AppError and StartupError."""
    vectors = not arguments.no_vectors
    if arguments.command == "export":
        return _run(export(settings, arguments.bot, arguments.file, vectors=vectors))
    if arguments.command == "restore-bot":
        options = {"on_conflict": arguments.on_conflict, "vectors": vectors, "again": arguments.again}
        return _run(restore_bot(settings, arguments.file, arguments.bot, **options))
    if arguments.command == "backup":
        return _run(backup(settings, arguments.folder, vectors=vectors, check=arguments.check))
    if arguments.check:
        return 1 if check_backup(arguments.folder) else 0
    return _run(restore(settings, arguments.folder, vectors=vectors))


def _run(command: Coroutine[Any, Any, int | None]) -> int:
    return 1 if asyncio.run(command) else 0
