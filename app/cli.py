"""python -m app.cli: commands for operators. They run next to a server, or without one."""

import argparse
import asyncio
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from tqdm import tqdm

from app.config import Settings
from app.core.commands import (
    open_adoption,
    open_model_migrator,
    open_normalizer,
    open_vector_check,
    open_verifier,
)
from app.core.connect import open_stores
from app.core.operations.model_migration import ModelMigrator
from app.core.operations.questions import read_questions
from app.core.operations.repair import Repairer
from app.core.operations.vector_check import VectorCheck
from app.core.operations.verify import Finding, Verifier
from app.core.services import Services, open_services
from app.core.stores.postgres.migrations import schema_sql
from app.key_commands import add_key_commands, run_key_command
from app.load_command import add_load_command, run_load_command
from app.schemas.rows import Progress
from app.settings_check import checked_settings, settings_warnings
from app.settings_page import settings_page
from app.sync_command import sync
from app.transfer_commands import COMMANDS as TRANSFER_COMMANDS
from app.transfer_commands import add_transfer_commands, run_transfer_command
from app.tune import tune
from app.utils.errors import AppError, ModelMismatch, StartupError
from app.utils.logging import configure

NICENESS = 10
RESUMED = frozenset({"load", "export", "restore-bot", "backup", "restore", "reembed", "reindex"})
"""Commands that keep what they have done."""
STOPPED = 130
"""The exit code after Ctrl-C, as in a shell."""
"""Added to the niceness of a process that embeds while servers run on the same machine."""


async def verify(settings: Settings, vectors: bool = False, sample: int | None = None) -> int:
    """Prints one line per finding and returns their number. ``vectors``: also embeds texts again to compare vectors."""
    if not vectors:
        async with open_verifier(settings) as verifier:
            return await _report(verifier)
    async with open_vector_check(settings, None) as (verifier, check):
        return await _report(verifier, check, sample)


async def repair(settings: Settings, vectors: bool = False, sample: int | None = None) -> int:
    """Repairs what verify finds and prints it, then verifies again. Returns the number of findings that are left."""
    repaired = 0
    # No rebuilding in the background: this command rebuilds by itself and shows the progress.
    async with open_services(settings.model_copy(update={"index_check_interval_seconds": 0})) as services:
        await services.repairer.finish_abandoned_sagas()
        for bot in tqdm(await services.verifier.bots(), desc="repair", unit="bot", disable=None):
            try:
                if bot.is_rebuilding:
                    await _rebuild(services.repairer, bot.bot_id)
                    repaired += 1
                    _write("repaired", Finding("index_rebuilding", bot.bot_id, "Milvus had lost vectors of this bot"))
                async for finding in services.repairer.repair_bot(bot.bot_id):
                    repaired += 1
                    _write("repaired", finding)
            except AppError as exc:
                tqdm.write(f"bot={bot.bot_id} cannot be repaired: {exc.detail}", file=sys.stdout)
            if vectors:
                repaired += await _repair_vectors(services, bot.bot_id, sample)
        print(f"{repaired} repaired")
        return await _report(services.verifier)


async def _rebuild(repairer: Repairer, bot_id: UUID) -> None:
    """Rebuilds the bot's index, or waits for another process that does, and shows the progress in chunks."""
    with tqdm(desc=f"rebuild {bot_id}", unit="chunk", disable=None) as bar:

        def show(progress: Progress) -> None:
            bar.total = progress.total
            bar.update(progress.done - bar.n)

        await repairer.rebuild(bot_id, show)


async def _repair_vectors(services: Services, bot_id: UUID, sample: int | None) -> int:
    check, repaired = services.vector_check, 0
    try:
        with tqdm(total=await check.count(bot_id, sample), desc="embed", unit="chunk", disable=None) as progress:
            findings = check.check_bot(bot_id, sample, progress.update)
            async for finding in services.repairer.repair_found(bot_id, findings):
                repaired += 1
                _write("repaired", finding)
    except AppError as exc:
        tqdm.write(f"bot={bot_id} cannot be compared: {exc.detail}", file=sys.stdout)
    return repaired


async def _report(verifier: Verifier, check: VectorCheck | None = None, sample: int | None = None) -> int:
    findings = 0
    async for finding in verifier.check_all():
        findings += 1
        _write("found", finding)
    for bot in tqdm(await verifier.bots(), desc="verify", unit="bot", disable=None):
        if bot.next_model:
            note = f"note bot={bot.bot_id} has an unfinished move to {bot.next_model}"
            tqdm.write(f"{note}: if no reembed is running, use reembed --to or --abort", file=sys.stdout)
        async for finding in verifier.check_bot(bot):
            findings += 1
            _write("found", finding)
        if check is not None:
            with tqdm(
                total=await check.count(bot.bot_id, sample), desc="embed", unit="chunk", disable=None
            ) as progress:
                try:
                    async for finding in check.check_bot(bot.bot_id, sample, progress.update):
                        findings += 1
                        _write("found", finding)
                except ModelMismatch as exc:
                    tqdm.write(f"note bot={bot.bot_id} is not compared: {exc.detail}", file=sys.stdout)
    print(f"{findings} findings" if findings else "stores agree")
    return findings


def _write(verb: str, finding: Finding) -> None:
    tqdm.write(f"{verb} {finding}", file=sys.stdout)


async def reembed(settings: Settings, bot_ids: Sequence[UUID] | None, model: str) -> int:
    """Moves bots (None: all) to another model, prints a line for each. Returns how many of all could not be moved."""
    failed = 0
    async with open_model_migrator(settings, model, NICENESS) as migrator:
        chosen = [bot.bot_id for bot in await migrator.bots()] if bot_ids is None else bot_ids
        for bot_id in chosen:
            try:
                print(f"bot={bot_id} {await _move(migrator, bot_id)}")
            except AppError as exc:
                if bot_ids is not None:
                    raise
                failed += 1
                print(f"bot={bot_id} not moved: {exc.detail}")
    return failed


async def _move(migrator: ModelMigrator, bot_id: UUID) -> str:
    started = time.perf_counter()
    with tqdm(total=await migrator.chunks(bot_id), desc="reembed", unit="chunk", disable=None) as progress:
        moved = await migrator.run(bot_id, progress.update)
    if moved is None:
        return "nothing to move: it has this model already, or no vectors yet"
    how = "resumed and moved" if moved.resumed else "moved"
    return (
        f"{how} to {moved.migration.embedding_model} ({moved.migration.dimension} dimensions): {moved.copied} chunks "
        f"embedded in {time.perf_counter() - started:.1f} s, {moved.late} of them while writers waited"
    )


async def reindex(settings: Settings, bot_ids: Sequence[UUID] | None, titles: bool | None) -> int:
    """Writes the words of bots (None: all that need it) again, a line for each. Returns how many of all were not."""
    failed = 0
    async with open_model_migrator(settings, None, NICENESS) as migrator:
        for bot_id in await migrator.outdated() if bot_ids is None else bot_ids:
            try:
                print(f"bot={bot_id} {await _reindex(migrator, bot_id, titles)}")
            except AppError as exc:
                if bot_ids is not None:
                    raise
                failed += 1
                print(f"bot={bot_id} not reindexed: {exc.detail}")
    return failed


async def _reindex(migrator: ModelMigrator, bot_id: UUID, titles: bool | None) -> str:
    started = time.perf_counter()
    with tqdm(total=await migrator.chunks(bot_id), desc="reindex", unit="chunk", disable=None) as progress:
        done = await migrator.reindex(bot_id, progress.update, titles=titles)
    if done is None:
        return "nothing to reindex: it has no vectors yet"
    how = "resumed and reindexed" if done.resumed else "reindexed"
    with_titles = "with titles" if done.migration.title_in_lexical else "without titles"
    return (
        f"{how} by analyzer {done.migration.analyzer_version} {with_titles}: {done.copied} chunks in "
        f"{time.perf_counter() - started:.1f} s, {done.embedded} of them embedded because Milvus lacked their vectors, "
        f"{done.late} while writers waited"
    )


async def abort(settings: Settings, bot_ids: Sequence[UUID] | None) -> int:
    """Aborts unfinished moves."""
    async with open_model_migrator(settings, None) as migrator:
        for bot_id in [bot.bot_id for bot in await migrator.bots()] if bot_ids is None else bot_ids:
            if move := await migrator.abort(bot_id):
                print(f"bot={bot_id} keeps its model; the move to {move.embedding_model} was aborted")
            elif bot_ids is not None:
                print(f"bot={bot_id} has no unfinished move")
    return 0


async def normalize(settings: Settings, bot_ids: Sequence[UUID] | None) -> int:
    """Rewrites stored names in NFC and prints a line per bot. Returns how many documents need a PATCH by hand."""
    collisions = 0
    async with open_normalizer(settings) as normalizer:
        for bot_id in await normalizer.bots(bot_ids):
            with tqdm(total=await normalizer.documents(bot_id), desc="normalize", unit="doc", disable=None) as progress:
                done = await normalizer.run(bot_id, progress.update)
            for doc_id, key in done.collisions:
                print(f"bot={bot_id} doc_id={doc_id} has the metadata key {key!r} in two forms: PATCH it to have one")
            print(f"bot={bot_id} {done.rewritten} documents rewritten")
            collisions += len(done.collisions)
    print(f"{collisions} documents keep both forms of a key" if collisions else "all names are in NFC")
    return collisions


async def calibrate(settings: Settings, bot_id: UUID, path: Path) -> None:
    """Calibrates confidence for the model of the bot, and prints the coefficients and how well they do."""
    questions = read_questions(path)
    async with open_services(settings) as services:
        with tqdm(total=len(questions), desc="search", unit="question", disable=None) as progress:
            done = await services.calibrator.run(bot_id, questions, progress.update)
    print(
        f"{done.model}: {done.questions} questions, {done.there} with an answer, of which {done.right} were found first"
    )
    print(f"with_similarity {_numbers(done.calibration.with_similarity)} AUC {done.auc:.3f}")
    print(f"words_only      {_numbers(done.calibration.words_only)} AUC {done.words_auc:.3f}")
    print(f"stored; bots of this model: {done.bots}")


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("should be at least 1")
    return int(text)


async def migrate(settings: Settings) -> None:
    async with open_stores(settings):
        print("schema is up to date")


async def adopt(settings: Settings, keep_vectors: bool) -> None:
    """Makes a Milvus of another installation belong to this database."""
    taken = await open_adoption(settings, keep_vectors=keep_vectors)
    print(f"Milvus now belongs to this database; new generations start at {taken.first}")
    if taken.bots:
        print(f"{taken.bots} bots start with empty collections, because Milvus may have vectors of others: run repair")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app.cli", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    verify = commands.add_parser("verify", help="compare PostgreSQL and Milvus; exits 1 if they disagree")
    repair = commands.add_parser(
        "repair", help="repair what verify finds, while servers run; exits 1 if findings are left"
    )
    for command in (verify, repair):
        command.add_argument("--vectors", action="store_true", help="embed texts again and compare the vectors too")
        command.add_argument("--sample", type=_count, metavar="N", help="only N random texts of each bot")
    migrate = commands.add_parser("migrate", help="upgrade the database to the newest schema")
    migrate.add_argument("--sql", action="store_true", help="only print the whole schema, for psql")
    reembed = commands.add_parser("reembed", help="move bots to another embedding model, while servers run")
    bots = reembed.add_mutually_exclusive_group(required=True)
    bots.add_argument("bots", nargs="*", default=[], type=UUID, metavar="BOT", help="chat_bot_id")
    bots.add_argument("--all", action="store_true", help="every bot; exits 1 if some could not be moved")
    action = reembed.add_mutually_exclusive_group(required=True)
    action.add_argument("--to", metavar="MODEL", help="provider, provider:model or provider:model#dimension")
    action.add_argument("--abort", action="store_true", help="abort an unfinished move and drop its new collection")
    reindex = commands.add_parser(
        "reindex", help="write the words of bots again with the newest analyzer, while servers run; embeds nothing"
    )
    bots = reindex.add_mutually_exclusive_group(required=True)
    bots.add_argument("bots", nargs="*", default=[], type=UUID, metavar="BOT", help="chat_bot_id")
    bots.add_argument("--all", action="store_true", help="every bot whose words are of an earlier analyzer")
    reindex.add_argument(
        "--titles",
        choices=("on", "off"),
        help="whether titles find chunks by their words; default: as before, on for bots of the first analyzer",
    )
    normalize = commands.add_parser("normalize", help="rewrite stored names in Unicode NFC")
    normalize.add_argument("bots", nargs="*", type=UUID, metavar="BOT", help="default: each bot that needs it")
    calibrate = commands.add_parser("calibrate", help="calibrate confidence for the embedding model of a bot")
    tune = commands.add_parser("tune", help="measure which mode and dense_weight answer a bot's questions best")
    for command in (calibrate, tune):
        command.add_argument("bot", type=UUID, metavar="BOT", help="chat_bot_id of a bot that has the answers")
        command.add_argument(
            "--questions",
            type=Path,
            required=True,
            metavar="FILE",
            help='lines like {"question": "..", "doc_id": 1}; instead of doc_id "external_id", "title", or "passage" '
            'for a part of the answering text; "doc_id": null where the bot has no answer',
        )
    tune.add_argument("--apply", action="store_true", help="make the best the bot's default")
    adopt = commands.add_parser("adopt", help="make a Milvus of another installation belong to this database")
    adopt.add_argument(
        "--keep-vectors",
        action="store_true",
        help="every bot keeps its collection: use it if you know that the vectors belong to these bots",
    )
    of_sync = commands.add_parser("sync", help="make a bot's documents equal to those of a file, while servers run")
    of_sync.add_argument(
        "file", type=Path, metavar="FILE.ndjson", help="a document with external_id and chunks in each line"
    )
    of_sync.add_argument("--bot", type=UUID, required=True, help="chat_bot_id")
    of_sync.add_argument("--delete-missing", action="store_true", help="delete documents that the file does not have")
    of_sync.add_argument("--dry-run", action="store_true", help="only print what would be done")
    commands.add_parser("settings", help="print every setting with its default and meaning, as Markdown")
    add_load_command(commands)
    add_key_commands(commands)
    add_transfer_commands(commands)
    return parser


def main() -> int:
    """Exit code 0, 1 if something is left to do (findings, bots that were not moved), 2 for an error, 130: Ctrl-C."""
    arguments = _parser().parse_args()
    try:
        return _run(arguments)
    except (StartupError, AppError) as exc:
        print(exc, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped: {_what_next(arguments)}", file=sys.stderr)
        return STOPPED


def _what_next(arguments: argparse.Namespace) -> str:
    """After Ctrl-C."""
    reads = arguments.command == "restore" and arguments.check
    if arguments.command not in RESUMED or reads:
        return "the same command begins again"
    again = "without --again " if arguments.command == "restore-bot" and arguments.again else ""
    return f"the same command {again}goes on where it was"


def _run(arguments: argparse.Namespace) -> int:
    """Raises StartupError and AppError."""
    if arguments.command == "migrate" and arguments.sql:
        sys.stdout.write(schema_sql())
        return 0
    if arguments.command == "settings":
        sys.stdout.write(settings_page())
        return 0
    settings = checked_settings()
    configure("WARNING")
    for line in settings_warnings():
        logging.getLogger("app").warning(line)
    if arguments.command == "migrate":
        asyncio.run(migrate(settings))
        return 0
    if arguments.command == "adopt":
        asyncio.run(adopt(settings, arguments.keep_vectors))
        return 0
    if arguments.command == "load":
        return run_load_command(settings, arguments)
    if arguments.command in TRANSFER_COMMANDS:
        return run_transfer_command(settings, arguments)
    if arguments.command == "keys":
        return run_key_command(settings, arguments)
    if arguments.command == "calibrate":
        asyncio.run(calibrate(settings, arguments.bot, arguments.questions))
        return 0
    if arguments.command == "tune":
        print(*asyncio.run(tune(settings, arguments.bot, arguments.questions, arguments.apply)), sep="\n")
        return 0
    if arguments.command == "sync":
        options = {"delete_missing": arguments.delete_missing, "dry_run": arguments.dry_run}
        return 1 if asyncio.run(sync(settings, arguments.file, arguments.bot, **options)) else 0
    if arguments.command == "normalize":
        return 1 if asyncio.run(normalize(settings, arguments.bots or None)) else 0
    if arguments.command == "reindex":
        titles = None if arguments.titles is None else arguments.titles == "on"
        chosen = None if arguments.all else arguments.bots
        return 1 if asyncio.run(reindex(settings, chosen, titles)) else 0
    if arguments.command == "reembed":
        bots = None if arguments.all else arguments.bots
        if arguments.abort:
            return asyncio.run(abort(settings, bots))
        return 1 if asyncio.run(reembed(settings, bots, arguments.to)) else 0
    compare = repair if arguments.command == "repair" else verify
    return 1 if asyncio.run(compare(settings, arguments.vectors or bool(arguments.sample), arguments.sample)) else 0


if __name__ == "__main__":
    sys.exit(main())
