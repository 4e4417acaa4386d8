"""Measures with which mode and weight a bot's searches find the right answers of given questions best.

The bot is searched as callers search it, with each setting of a grid in turn, in batches, one at a time. Nothing is
changed unless ``Tuner.apply`` is called.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple
from uuid import UUID

from app.core.bots.bots import Bots
from app.core.operations.questions import Question, ask
from app.core.search.query import Query, Result
from app.core.search.search import Search
from app.schemas.rows import Bot, BotChanges, Mode
from app.utils.errors import InvalidInput

MAX_QUESTIONS: Final = 1_000
"""More are thinned out evenly, so that a run makes at most 11 times 32 calls of ``Search.query``."""
TOP_K: Final = 10
WEIGHTS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class Setting(NamedTuple):
    """``dense_weight``: None in dense and lexical mode."""

    mode: Mode
    dense_weight: float | None = None


class Measured(NamedTuple):
    """``recall_at_1``: share of the questions whose first result is right. ``mrr_at_10``: mean reciprocal rank."""

    setting: Setting
    recall_at_1: float
    mrr_at_10: float


class Tuning(NamedTuple):
    """``measured``: in the order of the grid. ``best``: highest recall@1, then MRR@10. ``never_found``: questions whose
    answer was among the first 10 results with no setting."""

    questions: int
    measured: Sequence[Measured]
    best: Measured
    never_found: Sequence[Question]


class Tuner:
    def __init__(self, bots: Bots, search: Search) -> None:
        self._bots = bots
        self._search = search

    async def grid(self, bot_id: UUID) -> list[Setting]:
        """The settings that the bot can serve. Raises BotNotFound."""
        bot = await self._bots.usable(bot_id, None)
        if not await self._bots.supports_lexical(bot):
            return [Setting("dense")]
        return [Setting("dense"), Setting("lexical"), *(Setting("hybrid", weight) for weight in WEIGHTS)]

    async def run(
        self,
        bot_id: UUID,
        questions: Sequence[Question],
        grid: Sequence[Setting],
        progress: Callable[[int], object] = lambda _count: None,
    ) -> Tuning:
        """Asks every question with every setting. ``progress`` is told numbers of questions asked.

        Raises InvalidInput without questions, and as ``Search.query``.
        """
        if not questions:
            raise InvalidInput("No question names its answer.")
        found: set[int] = set()
        measured: list[Measured] = []
        for setting in grid:
            query = Query(bot_id, None, (), TOP_K, mode=setting.mode, dense_weight=setting.dense_weight)
            ranks: list[int | None] = []
            async for answered in ask(self._search, query, questions, progress):
                ranks += [_rank(question, results) for question, results in answered]
            found |= {place for place, rank in enumerate(ranks) if rank is not None}
            first = sum(rank == 1 for rank in ranks) / len(ranks)
            measured.append(Measured(setting, first, sum(1 / rank for rank in ranks if rank) / len(ranks)))
        best = max(measured, key=lambda one: (one.recall_at_1, one.mrr_at_10))
        never = [question for place, question in enumerate(questions) if place not in found]
        return Tuning(len(questions), measured, best, never)

    async def apply(self, bot_id: UUID, setting: Setting) -> Bot:
        """Makes the setting the bot's default. Raises BotNotFound."""
        changes: BotChanges = {"default_mode": setting.mode}
        if setting.dense_weight is not None:
            changes["default_dense_weight"] = setting.dense_weight
        return await self._bots.update(bot_id, None, changes)


def thinned(questions: Sequence[Question]) -> list[Question]:
    """At most MAX_QUESTIONS of those that name their answer, evenly spread."""
    answered = [question for question in questions if question.has_answer]
    count = min(len(answered), MAX_QUESTIONS)
    return [answered[place * len(answered) // count] for place in range(count)]


def _rank(question: Question, results: Sequence[Result]) -> int | None:
    """The place of the first right result, from 1; None if none is right."""
    return next((place for place, result in enumerate(results, 1) if question.is_answered_by(result)), None)
