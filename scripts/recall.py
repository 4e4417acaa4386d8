"""Measures how often each search mode finds the right document, through the API, on two Korean sets of questions.

korquad: 5,774 questions to 964 paragraphs of Wikipedia. parakqc: 9,000 wordings of 1,000 entries of a FAQ. Each set is
in a bot of its own, on a server that the script starts.
"""

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from tqdm import tqdm

from app.core.search.regression import auc
from scripts.api_client import ApiClient
from scripts.korquad import Paragraph
from scripts.own_server import own_server
from scripts.question_sets import SETS, Entry, QuestionSet
from scripts.ranking_metrics import mrr_at, ndcg_at, places, recall_at

MODES = ("dense", "lexical", "hybrid")
LEFT_OUT = ("number", "article")
"""Keys of the metadata: a question's right document is left out, or all that share its article."""
VALUES = ("score", "dense_score", "lexical_score", "lexical_coverage", "confidence")
"""Values of the first result that may tell whether the answer is there. Those that no result has are not shown."""
BOT = str(UUID(int=1))
BATCH = 50
QUERIES = 64
TOP_K = 10
TIMED = 200

Result = dict[str, Any]


def load(server: ApiClient, wanted: Sequence[Entry | Paragraph], bot: str = BOT) -> None:
    """Makes a bot in which each entry is a document of one chunk; its metadata has ``number`` and ``article``."""
    body = {"chat_bot_id": bot, "bot_name": "recall", "collection_name": f"recall_{UUID(bot).int}"}
    server.call("POST", "/collection/create", body)
    numbered = list(enumerate(wanted))
    with tqdm(total=len(numbered), desc="insert", unit="document", disable=None) as progress:
        for start in range(0, len(numbered), BATCH):
            documents = [
                {
                    "document": {
                        "chat_bot_id": bot,
                        "title": entry.title,
                        "metadata": {"number": number, "article": entry.article},
                    },
                    "chunks": [{"chunk_index": 0, "text": entry.text}],
                }
                for number, entry in numbered[start : start + BATCH]
            ]
            answer = server.call("POST", "/data/insert/batch", {"documents": documents})
            if answer["success_count"] != len(documents):
                raise SystemExit("Not every document was stored.")
            progress.update(len(documents))


class Bot:
    """A bot that holds the documents of one set."""

    def __init__(self, server: ApiClient, questions: QuestionSet, number: int) -> None:
        self._server = server
        self._set = questions
        self._bot = str(UUID(int=number))

    def load(self) -> None:
        load(self._server, self._set.entries, self._bot)

    def ask(self, asked: Sequence[str], options: dict[str, Any], limit: int) -> list[list[Result]]:
        """The results of each question."""
        found: list[list[Result]] = []
        for start in range(0, len(asked), QUERIES):
            body = {"chat_bot_id": self._bot, "limit": limit, "query_texts": asked[start : start + QUERIES], **options}
            found += [one["results"] for one in self._server.call("POST", "/search/batch", body)["answers"]]
        return found

    def ask_all(self, options: dict[str, Any]) -> list[list[Result]]:
        asked = [question for question, _ in self._set.asked]
        found: list[list[Result]] = []
        with tqdm(
            total=len(asked), desc=f"{self._set.name} {_name(options)}", unit="question", disable=None
        ) as progress:
            for start in range(0, len(asked), QUERIES):
                found += self.ask(asked[start : start + QUERIES], options, TOP_K)
                progress.update(len(found) - progress.n)
        return found

    def latency(self, options: dict[str, Any]) -> float:
        """Median milliseconds of a question alone, one after the other."""
        times = []
        for question, _ in self._set.spread(TIMED).asked:
            body = {"chat_bot_id": self._bot, "limit": TOP_K, "query_text": question, **options}
            start = time.perf_counter()
            self._server.call("POST", "/search/query", body)
            times.append((time.perf_counter() - start) * 1000)
        return statistics.median(times)

    def without(self, key: str, options: dict[str, Any]) -> list[list[Result]]:
        """The results of each question when its right document, or all of that document's article, is left out.

        As many as of ``ask_all``, because the confidence of the first result depends on those below it.
        """
        groups: defaultdict[int, list[int]] = defaultdict(list)
        for place, (_, number) in enumerate(self._set.asked):
            groups[number if key == "number" else self._set.entries[number].article].append(place)
        found: list[list[Result]] = [[] for _ in self._set.asked]
        with tqdm(total=len(found), desc=f"{self._set.name} without {key}", unit="question", disable=None) as progress:
            for value, members in groups.items():
                others = {"filter": {"type": "ne", "key": f"metadata.{key}", "value": value}}
                answers = self.ask([self._set.asked[place][0] for place in members], {**options, **others}, TOP_K)
                for place, results in zip(members, answers, strict=True):
                    found[place] = results
                progress.update(len(members))
        return found


def table(bot: Bot, questions: QuestionSet, tried: Sequence[dict[str, Any]]) -> list[list[list[Result]]]:
    """Prints a row of measures for each of ``tried``; returns the results."""
    everything, rows = [], []
    right = [number for _, number in questions.asked]
    for options in tried:
        found = bot.ask_all(options)
        ranked = [[result["document"]["metadata"]["number"] for result in results] for results in found]
        at = places(ranked, right)
        measures = (recall_at(1, at), recall_at(5, at), mrr_at(10, at), ndcg_at(10, at))
        rows.append((_name(options), *measures, bot.latency(options)))
        everything.append(found)
    heading = f"{questions.name}, {len(questions.asked):,} questions"
    print(f"{heading:<26} recall@1   recall@5     MRR@10    nDCG@10  median ms")
    for name, first, best, mrr, ndcg, times in rows:
        print(f"{name:<24} {first:10.3f} {best:10.3f} {mrr:10.3f} {ndcg:10.3f} {times:10.1f}")
    return everything


def auc_table(
    bot: Bot, questions: QuestionSet, tried: Sequence[dict[str, Any]], present: list[list[list[Result]]]
) -> None:
    """Prints, for each value of the first result, how well it tells whether the answer is in the bot."""
    rows = []
    for options, found in zip(tried, present, strict=True):
        absent = {key: bot.without(key, options) for key in LEFT_OUT}
        for value in VALUES:
            if any(result.get(value) is not None for results in found for result in results[:1]):
                measured = [auc(_values(found, value), _values(absent[key], value)) for key in LEFT_OUT]
                rows.append((f"{_name(options)} {value}", *measured))
    print(f"{questions.name + ', AUC of the first result':<40} document left out  article left out")
    for name, document, article in rows:
        print(f"{name:<40} {document:17.3f} {article:17.3f}")


def _values(found: Sequence[Sequence[Result]], value: str) -> list[float]:
    """Of the first result of each question; without a result, or where the result has null, below all others."""
    shown = [results[0].get(value) if results else None for results in found]
    return [-float("inf") if one is None else one for one in shown]


def _name(options: dict[str, Any]) -> str:
    weight = options.get("dense_weight")
    return options["mode"] if weight is None else f"{options['mode']} {weight}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/recall", description=__doc__)
    parser.add_argument("--set", default=",".join(SETS), help="of these, with commas (default: %(default)s)")
    parser.add_argument("--mode", default="dense,lexical,hybrid", help="of these, with commas (default: %(default)s)")
    parser.add_argument("--dense-weight", help="weights for hybrid mode, with commas (default: the server's)")
    parser.add_argument("--questions", type=int, help="how many of each set, evenly spread (default: all)")
    parser.add_argument("--auc", action="store_true", help="also measure what tells an answer from a guess")
    arguments = parser.parse_args()
    modes, names = arguments.mode.split(","), arguments.set.split(",")
    for chosen, known in ((modes, MODES), (names, tuple(SETS))):
        if unknown := set(chosen) - set(known):
            parser.error(f"unknown: {', '.join(unknown)}; use {', '.join(known)}")
    weights = [float(weight) for weight in arguments.dense_weight.split(",")] if arguments.dense_weight else [None]
    tried = [
        {"mode": mode} if weight is None else {"mode": mode, "dense_weight": weight}
        for mode in modes
        for weight in (weights if mode == "hybrid" else [None])
    ]
    with own_server() as address:
        for number, name in enumerate(names, start=1):
            questions = SETS[name]().spread(arguments.questions)
            bot = Bot(ApiClient(address), questions, number)
            bot.load()
            found = table(bot, questions, tried)
            if arguments.auc:
                auc_table(bot, questions, tried, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
