"""What this server costs over calling its stores and its embedder by hand. ``scripts/bench search --help`` and so on."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import uvloop

from scripts.benchmarks import ingest, search
from scripts.benchmarks.embedders import NAMES
from scripts.benchmarks.figures import Table, markdown, save
from scripts.benchmarks.world import opened_world


async def _search(arguments: argparse.Namespace) -> list[Table]:
    async with opened_world(arguments.milvus) as world:
        return await search.measure(world, arguments.embedders, arguments.clients, arguments.rounds, arguments.queries)


async def _ingest(arguments: argparse.Namespace) -> list[Table]:
    async with opened_world(arguments.milvus) as world:
        return await ingest.measure(world, arguments.embedders, arguments.rounds, arguments.singles)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    questions = parser.add_subparsers(dest="question", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--milvus", choices=["lite", "server"], default="server", help="(default: %(default)s)")
    common.add_argument("--json", type=Path, help="writes the figures there, and the tables beside it as .md")
    compared = argparse.ArgumentParser(add_help=False)
    compared.add_argument("--embedders", type=_embedders, default=list(NAMES), help="of hash,+50ms,use-multilingual")
    compared.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    one = questions.add_parser("search", parents=[common, compared], help=search.__doc__)
    one.add_argument("--clients", type=_numbers, default=[1, 4, 16, 64], help="at once (default: 1,4,16,64)")
    one.add_argument("--queries", type=int, default=400, help="in a round (default: %(default)s)")
    one.set_defaults(run=_search)
    one = questions.add_parser("ingest", parents=[common, compared], help=ingest.__doc__)
    one.add_argument("--singles", type=int, default=100, help="documents inserted one by one (default: %(default)s)")
    one.set_defaults(run=_ingest)
    arguments = parser.parse_args()
    tables = uvloop.run(arguments.run(arguments))
    command = "scripts/bench " + " ".join(_given())
    print(markdown(command, tables))
    if arguments.json:
        save(arguments.json, command, tables)


def _given() -> Sequence[str]:
    import sys

    return sys.argv[1:]


def _embedders(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(NAMES):
        raise argparse.ArgumentTypeError(f"no embedder {', '.join(unknown)}: use {', '.join(NAMES)}")
    return names


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    main()
