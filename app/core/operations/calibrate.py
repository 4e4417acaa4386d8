"""Calibrates ``confidence`` for the embedding model of a bot, from questions whose answers are known.

Each question is searched once. If its answer is in the bot, the best result is an example of right or wrong, and the
best result of another document is an example of what is found when the answer is missing. A question that has no
answer in the bot is an example of that too. The answers that are there and those that are missing weigh the same.
"""

from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple
from uuid import UUID
from zlib import crc32

import numpy as np

from app.core.bots.bots import Bots
from app.core.operations.questions import Question, ask
from app.core.ports import StatisticsPort
from app.core.search.confidence import SIGNS, features
from app.core.search.query import Query, Result
from app.core.search.regression import Numbers, auc, fit_signed, predict
from app.core.search.relevance import Relevance
from app.core.search.search import Search
from app.schemas.operation_rows import Calibration
from app.schemas.rows import Mode
from app.utils.errors import InvalidInput

RESULTS: Final = 20
FOLDS: Final = 5
MIN_EXAMPLES: Final = 50
"""Of right results, and as many of wrong ones."""


class Example(NamedTuple):
    """The best result of a search. ``group``: examples of one answer, which are fitted or tested together.
    ``is_there``: the answer was among what was searched. ``is_right``: the result has it."""

    group: int
    is_there: bool
    is_right: bool
    with_similarity: Sequence[float]
    words_only: Sequence[float]


class Calibrated(NamedTuple):
    """``auc``: how well confidence tells questions whose answer is in the bot from others, on questions that were left
    out of the fit (five folds, by answer). ``bots``: bots that have the calibration now."""

    model: str
    calibration: Calibration
    questions: int
    there: int
    right: int
    auc: float
    words_auc: float
    bots: int


class Calibrator:
    def __init__(self, bots: Bots, search: Search, relevance: Relevance, store: StatisticsPort) -> None:
        self._bots = bots
        self._search = search
        self._relevance = relevance
        self._store = store

    async def run(
        self, bot_id: UUID, questions: Sequence[Question], progress: Callable[[int], object] = lambda _count: None
    ) -> Calibrated:
        """Fits a calibration and stores it for all bots with this bot's model and analyzer.

        Raises InvalidInput when there are too few examples, and as ``Search.query``.
        """
        bot = await self._bots.usable(bot_id, None)
        examples: list[Example] = []
        # Not with the bot's own mode and min_confidence.
        mode: Mode = "hybrid" if await self._bots.supports_lexical(bot) else "dense"
        query = Query(bot_id, None, (), RESULTS, mode, min_confidence=0.0)
        async for answered in ask(self._search, query, questions, progress):
            examples += await self._examples(bot_id, answered)
        right = sum(example.is_right for example in examples)
        if min(right, len(examples) - right) < MIN_EXAMPLES:
            raise InvalidInput(
                f"{len(questions)} questions gave {right} right results and {len(examples) - right} wrong ones. "
                f"A calibration needs at least {MIN_EXAMPLES} of each."
            )
        both, both_auc = _fitted(examples, "with_similarity")
        words, words_auc = _fitted(examples, "words_only")
        calibration = Calibration(tuple(both.tolist()), tuple(words.tolist()))
        now = await self._bots.usable(bot_id, None)
        assert now.embedding_model is not None
        assert now.dimension is not None
        if (now.embedding_model, now.analyzer_version) != (bot.embedding_model, bot.analyzer_version):
            raise InvalidInput("The bot was moved to another model or analyzer meanwhile. Run the command again.")
        bots = await self._store.calibrate(now.embedding_model, now.dimension, now.analyzer_version, calibration)
        there = sum(question.has_answer for question in questions)
        return Calibrated(now.embedding_model, calibration, len(questions), there, right, both_auc, words_auc, bots)

    async def _examples(self, bot_id: UUID, answered: Sequence[tuple[Question, Sequence[Result]]]) -> list[Example]:
        bot = await self._bots.usable(bot_id, None)
        examples: list[Example] = []
        for question, results in answered:
            wrong = [result for result in results if not question.is_answered_by(result)]
            best = [(result, question.has_answer) for result in results[:1]]
            if question.has_answer:
                best += [(result, False) for result in wrong[:1]]
            answer_of = question.doc_id or question.passage or question.title or question.text
            group = crc32(str(answer_of).encode())
            matches = await self._relevance.matches(question.text, bot, [result.chunk for result, _ in best])
            for (result, is_there), match in zip(best, matches, strict=True):
                assert result.dense_score is not None  # In hybrid and in dense mode.
                is_right = is_there and question.is_answered_by(result)
                both, words = features(match, result.dense_score), features(match, None)
                examples.append(Example(group, is_there, is_right, both, words))
        return examples


def _fitted(examples: Sequence[Example], kind: Literal["with_similarity", "words_only"]) -> tuple[Numbers, float]:
    """Coefficients of all examples, and the AUC of those that were left out of a fit."""
    values = np.array([getattr(example, kind) for example in examples], np.float64)
    right = np.array([example.is_right for example in examples], np.float64)
    there = np.array([example.is_there for example in examples])
    weights = np.where(there, 1 / there.sum(), 1 / (~there).sum())
    folds = np.array([example.group % FOLDS for example in examples])
    signs = SIGNS[: values.shape[1]]
    likely = np.zeros(len(examples))
    for fold in set(folds.tolist()):
        held = folds == fold
        found = fit_signed(values[~held], right[~held], weights[~held], signs)
        likely[held] = predict(found, values[held])
    return fit_signed(values, right, weights, signs), auc(likely[there], likely[~there])
