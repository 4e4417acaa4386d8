"""Measures whether ``confidence`` tells questions that a bot can answer from others, on KorQuAD, through the API.

Each question is asked three times: of all paragraphs, without its paragraph, and without its whole article. AUC is how
often the confidence of the first result is higher where the answer is there than where it is not.
"""

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Hashable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from app.core.search.regression import auc
from scripts.api_client import ApiClient
from scripts.korquad import Paragraph, paragraphs
from scripts.own_server import environment_of, own_folder, server_in
from scripts.recall import BOT, QUERIES, load

Asked = Sequence[tuple[str, Paragraph]]
LEVELS = (0.1, 0.2, 0.3, 0.5, 0.7)
"""Values of min_confidence in the second table."""


class First(NamedTuple):
    """The first result for a question. Without one, ``confidence`` is below every other."""

    confidence: float = -1.0
    is_right: bool = False


def ask(server: ApiClient, asked: Asked, without: str | None, options: dict[str, Any]) -> list[First]:
    """The first result for each question. ``without``: "paragraph", "article" or None."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for position, (_, paragraph) in enumerate(asked):
        groups[{"paragraph": paragraph.number, "article": paragraph.article}.get(without or "")].append(position)
    found = [First()] * len(asked)
    name = f"{options['mode']}, {f'without the {without}' if without else 'everything'}"
    with tqdm(total=len(asked), desc=name, unit="question", disable=None) as progress:
        for positions in groups.values():
            for start in range(0, len(positions), QUERIES):
                part = positions[start : start + QUERIES]
                body = {"chat_bot_id": BOT, "query_texts": [asked[position][0] for position in part], **options}
                paragraph = asked[part[0]][1]
                if without == "paragraph":
                    body["filter"] = {"type": "ne", "key": "metadata.number", "value": paragraph.number}
                elif without == "article":
                    body["filter"] = {"type": "ne", "key": "title", "value": paragraph.title}
                answers = server.call("POST", "/search/batch", body)["answers"]
                for position, answer in zip(part, answers, strict=True):
                    for result in answer["results"][:1]:
                        number = result["document"]["metadata"]["number"]
                        found[position] = First(result["confidence"], number == asked[position][1].number)
                progress.update(len(part))
    return found


def ask_all(server: ApiClient, asked: Asked, options: dict[str, Any]) -> list[list[First]]:
    return [ask(server, asked, without, options) for without in (None, "paragraph", "article")]


def print_row(name: str, there: Sequence[First], missing: Sequence[Sequence[First]], least: float = 0.0) -> None:
    """How many right first results are left, and how many questions without an answer get none."""
    right = sum(first.is_right and first.confidence >= least for first in there) / len(there)
    none = [sum(first.confidence < least for first in asked) / len(asked) for asked in missing]
    print(f"{name:<21} {right:8.3f} {none[0]:19.3f} {none[1]:17.3f}")


def fit(folder: Path, asked: Asked, settings: dict[str, str]) -> None:
    """Runs the command that calibrates, with every question and its paragraph."""
    file = folder / "questions.ndjson"
    lines = (json.dumps({"question": text, "passage": paragraph.text}) for text, paragraph in asked)
    file.write_text("\n".join(lines), encoding="utf-8")
    command = [sys.executable, "-m", "app.cli", "calibrate", BOT, "--questions", str(file)]
    subprocess.run(command, cwd=folder, env=environment_of(folder, **settings), check=True)


def _confidences(found: Sequence[First]) -> list[float]:
    return [first.confidence for first in found]


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/confidence", description=__doc__)
    parser.add_argument("--mode", default="hybrid,lexical,dense", help="of these, with commas (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=5, help="results of a search (default: %(default)s)")
    parser.add_argument("--questions", type=int, help="how many, evenly spread (default: all 5,774)")
    parser.add_argument(
        "--fit", choices=["all", "half"], help="first calibrate; half: on every second article, and ask of the others"
    )
    parser.add_argument("--cuts", action="store_true", help="also what min_confidence and score_threshold cost")
    parser.add_argument("--milvus", choices=["lite", "server"], default="lite", help="server: 2.3.5, which has no BM25")
    arguments = parser.parse_args()
    everything = paragraphs()
    asked = [(question, item) for item in everything for question in item.questions]
    fitted = asked
    if arguments.fit == "half":
        fitted = [(question, item) for question, item in asked if item.article % 2 == 0]
        asked = [(question, item) for question, item in asked if item.article % 2]
    if arguments.questions:
        asked = asked[:: max(1, len(asked) // arguments.questions)][: arguments.questions]
    with ExitStack() as stack:
        folder = stack.enter_context(own_folder())
        settings = {}
        if arguments.milvus == "server":
            from tests.milvus_server import MilvusServer

            settings["MILVUS_URI"] = stack.enter_context(MilvusServer(folder / "milvus")).uri
        address = stack.enter_context(server_in(folder, **settings))
        server = ApiClient(address)
        load(server, everything)
        if arguments.fit:
            fit(folder, fitted, settings)
            server = ApiClient(address)  # The connection of the other one has been idle for too long.
        hybrid: tuple[Sequence[First], Sequence[Sequence[First]]] | None = None
        print(f"AUC, {len(asked):,} questions   without paragraph   without article")
        for mode in arguments.mode.split(","):
            there, *missing = ask_all(server, asked, {"mode": mode, "limit": arguments.limit})
            areas = [auc(_confidences(there), _confidences(one)) for one in missing]
            print(f"{mode:<21} {areas[0]:19.3f} {areas[1]:17.3f}")
            if mode == "hybrid":
                hybrid = there, missing
        if arguments.cuts and hybrid:
            print("hybrid, first result     right   none: without paragraph   article")
            print_row("no threshold", *hybrid)
            for level in LEVELS:
                print_row(f"min_confidence {level}", *hybrid, level)
            cut = {"mode": "hybrid", "limit": arguments.limit, "score_threshold": 0.3}
            there, *missing = ask_all(server, asked, cut)
            print_row("score_threshold 0.3", there, missing)
    return 0


if __name__ == "__main__":
    sys.exit(main())
