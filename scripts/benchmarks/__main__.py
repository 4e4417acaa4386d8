"""Benchmarks. Each starts its own stores and servers in a temporary folder.

The first eight print tables: most compare the server with a bare script that calls the stores and the embedder
directly, or, with `--against COMMIT`, with another commit of the server. `scripts/bench NAME --help` lists options.
"""

import argparse
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType

import uvloop

from app.core.stores.embedded.stores import embedded_stores
from scripts.benchmarks import (
    against,
    bots,
    bulk,
    cache_timing,
    embedding,
    filters,
    fresh,
    idle,
    ingest,
    listing,
    partitions,
    put,
    queue,
    reembed,
    rls,
    search,
    servers,
    soak,
    startup,
    stream,
    sync,
    torch_embedding,
    transfer,
)
from scripts.benchmarks.embedders import NAMES
from scripts.benchmarks.figures import Table, markdown, save
from scripts.benchmarks.sides import APPS
from scripts.benchmarks.world import DATABASE, opened_world

HISTORY = Path(__file__).parents[2] / "docs" / "benchmarks-history.jsonl"
FEWEST_PAIRS = 20
PROGRAMS: tuple[ModuleType, ...] = (
    embedding,
    queue,
    torch_embedding,
    filters,
    listing,
    put,
    stream,
    sync,
    transfer,
    idle,
    reembed,
    cache_timing,
    rls,
    servers,
)
"""Benchmarks that print by themselves: each has ``add_options(parser)`` and ``main(options)``, the exit code."""
Options = argparse.Namespace
Run = Callable[[Options], Awaitable[list[Table]]]


async def _search(options: Options) -> list[Table]:
    async with opened_world(options.milvus) as world:
        clients = options.clients or [1, 4, 16, 64]
        return await search.measure(world, options.embedders, clients, options.rounds, options.queries)


async def _ingest(options: Options) -> list[Table]:
    async with opened_world(options.milvus) as world:
        return await ingest.measure(world, options.embedders, options.rounds, options.singles)


async def _bots(options: Options) -> list[Table]:
    return await bots.measure(options.milvus, options.counts, options.chunks, options.queries)


async def _bulk(options: Options) -> list[Table]:
    async with opened_world(options.milvus) as world:
        return await bulk.measure(world, options.embedders, options.rounds, options.queries)


async def _fresh(options: Options) -> list[Table]:
    if options.milvus != "server":
        raise SystemExit("Milvus Lite has no time tick: scripts/bench fresh --milvus lite needs --against COMMIT.")
    return await fresh.measure(options.ticks, options.queries, options.processes, options.mixed_seconds)


async def _partitions(options: Options) -> list[Table]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="chat-bench-", ignore_cleanup_errors=True) as folder:
        async with embedded_stores(Path(folder) / "data", postgres=True, milvus=False, database=DATABASE) as stores:
            assert stores.postgres is not None
            ways = await partitions.three_ways(stores.postgres, options.bots, options.documents, options.repeats)
            return [ways, await partitions.counts(stores.postgres, options.counts, options.repeats)]


async def _soak(options: Options) -> list[Table]:
    async with opened_world(options.milvus) as world:
        return await soak.measure(world, options.minutes)


async def _startup(options: Options) -> list[Table]:
    if options.milvus != "lite":
        raise SystemExit("Starts are embedded: scripts/bench startup --milvus server needs --against COMMIT.")
    return await startup.measure(options.rounds)


async def _all(options: Options) -> list[Table]:
    """Each benchmark that has tables, with its own defaults or with sizes that end in minutes."""
    quick = {
        "search": ["--clients", "1,16", "--queries", "200"],
        "ingest": ["--singles", "48"],
        "bots": ["--counts", "1,5", "--chunks", "600", "--queries", "200"],
        "bulk": ["--queries", "100"],
        "fresh": ["--ticks", "200", "--queries", "50", "--mixed-seconds", "3"],
        "partitions": ["--bots", "20", "--documents", "3000", "--counts", "10,100,500", "--repeats", "200"],
        "soak": ["--minutes", "1"],
        "startup": [],
    }
    tables: list[Table] = []
    for question, smaller in quick.items():
        arguments = [question, *(smaller if options.quick else [])]
        found = await _run_one(arguments)
        for table in found:
            table.note = f"`scripts/bench {' '.join(arguments)}`. {table.note}".strip()
        tables += found
    return tables


async def _run_one(arguments: list[str]) -> list[Table]:
    options = _parser().parse_args(arguments)
    run: Run = options.run
    return list(await run(options))


class _OneLineEach(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=22, width=130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__, formatter_class=_OneLineEach)
    questions = parser.add_subparsers(dest="question", required=True, metavar="NAME")
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("--json", type=Path, help="writes the figures there, and the tables beside it as .md")
    stores = argparse.ArgumentParser(add_help=False, parents=[output])
    stores.add_argument("--milvus", choices=["lite", "server"], default="server", help="(default: %(default)s)")
    versions = argparse.ArgumentParser(add_help=False)
    group = versions.add_argument_group("comparing two versions")
    group.add_argument("--against", metavar="COMMIT", help="takes turns with that commit of the server")
    group.add_argument("--pairs", type=_pairs, help="of blocks, at least 20 (default: 20 to 60)")
    group.add_argument("--embedder", choices=list(APPS), default="hash", help="(default: %(default)s)")
    group.add_argument("--history", type=Path, default=HISTORY, help="gets a line a row (default: %(default)s)")
    compared = argparse.ArgumentParser(add_help=False, parents=[stores])
    compared.add_argument("--embedders", type=_embedders, default=list(NAMES), help=f"of {','.join(NAMES)}")
    compared.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")

    def question(
        name: str, run: Run, parent: argparse.ArgumentParser, help: str | None, *more: argparse.ArgumentParser
    ) -> argparse.ArgumentParser:
        one = questions.add_parser(name, parents=[parent, *more], help=help)
        one.set_defaults(run=run)
        return one

    one = question("search", _search, compared, search.__doc__, versions)
    one.add_argument("--clients", type=_numbers, help="at once (default: 1,4,16,64; with --against 1,16)")
    one.add_argument(
        "--mode",
        choices=["dense", "lexical", "hybrid"],
        default="dense",
        help="with --against only (default: %(default)s)",
    )
    one.add_argument("--queries", type=int, default=400, help="in a round (default: %(default)s)")
    one = question("ingest", _ingest, compared, ingest.__doc__, versions)
    one.add_argument("--singles", type=int, default=100, help="documents inserted one by one (default: %(default)s)")
    one = question("bots", _bots, stores, bots.__doc__)
    one.add_argument("--counts", type=_numbers, default=[1, 10, 100], help="bots (default: 1,10,100)")
    one.add_argument("--chunks", type=int, default=3000, help="of each bot (default: %(default)s)")
    one.add_argument("--queries", type=int, default=500, help="(default: %(default)s)")
    one = question("bulk", _bulk, compared, bulk.__doc__, versions)
    one.add_argument("--queries", type=int, default=300, help="in a round (default: %(default)s)")
    one = question("fresh", _fresh, stores, fresh.__doc__, versions)
    one.add_argument("--ticks", type=_numbers, default=[200, 100, 50, 20], help="ms (default: 200,100,50,20)")
    one.add_argument("--queries", type=int, default=200, help="(default: %(default)s)")
    one.add_argument("--processes", type=_numbers, default=[1, 2], help="of the server (default: 1,2)")
    one.add_argument("--mixed-seconds", type=float, default=10, help="of a round of the mixed load; 0 for none")
    one = question("partitions", _partitions, output, partitions.__doc__)
    one.add_argument("--bots", type=int, default=100, help="(default: %(default)s)")
    one.add_argument("--documents", type=int, default=30_000, help="of each bot (default: %(default)s)")
    one.add_argument("--counts", type=_numbers, default=[10, 100, 1000, 2000], help="(default: 10,100,1000,2000)")
    one.add_argument("--repeats", type=int, default=300, help="(default: %(default)s)")
    one = question("soak", _soak, stores, soak.__doc__)
    one.add_argument("--minutes", type=float, default=30, help="(default: %(default)s)")
    one = question("startup", _startup, stores, startup.__doc__, versions)
    one.set_defaults(milvus="lite")
    one.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    one = question("all", _all, output, "All of the above, one after the other, on the Milvus server.")
    one.add_argument("--quick", action="store_true", help="smaller sizes")
    for program in PROGRAMS:
        assert program.__doc__ is not None
        name = program.__name__.rpartition(".")[2].replace("_", "-")
        one = questions.add_parser(name, help=program.__doc__.partition("\n")[0], description=program.__doc__)
        program.add_options(one)
        one.set_defaults(main=program.main)
    return parser


def main() -> int:
    options = _parser().parse_args()
    if hasattr(options, "main"):
        return int(options.main(options))
    tables = list(uvloop.run(_awaited(options)))
    command = " ".join(["scripts/bench", *sys.argv[1:]])
    print(markdown(command, tables))
    if options.json:
        save(options.json, command, tables)
    return 0


async def _awaited(options: Options) -> list[Table]:
    if getattr(options, "against", None):
        return await against.measure(options.question, options)
    run: Run = options.run
    return await run(options)


def _embedders(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(NAMES):
        raise argparse.ArgumentTypeError(f"no embedder {', '.join(unknown)}: use {', '.join(NAMES)}")
    return names


def _pairs(text: str) -> int:
    if int(text) < FEWEST_PAIRS:
        raise argparse.ArgumentTypeError(f"an interval needs at least {FEWEST_PAIRS} pairs")
    return int(text)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
