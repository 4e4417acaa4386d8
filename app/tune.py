"""python -m app.cli tune: how well each mode and weight answers given questions."""

import math
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from tqdm import tqdm

from app.config import Settings
from app.core.operations.questions import read_questions
from app.core.operations.tuning import Setting, Tuning, thinned
from app.core.services import open_services

CACHE_MB = 64
"""So that each question is embedded once, not once for each setting."""
SHOWN_LINES = 10


async def tune(settings: Settings, bot_id: UUID, path: Path, apply: bool) -> list[str]:
    """Measures the bot with the questions of a file; the lines of a table. ``apply``: the best becomes its default.

    Raises InvalidInput for a wrong file, and as a search.
    """
    everything = read_questions(path)
    questions = thinned(everything)
    cached = settings.model_copy(
        update={"embedding_cache_mb": max(settings.embedding_cache_mb, CACHE_MB), "index_check_interval_seconds": 0}
    )
    async with open_services(cached) as services:
        tuner = services.tuner
        grid = await tuner.grid(bot_id)
        with tqdm(total=len(grid) * len(questions), desc="search", unit="question", disable=None) as progress:
            tuning = await tuner.run(bot_id, questions, grid, progress.update)
        if apply:
            await tuner.apply(bot_id, tuning.best.setting)
    return [*_table(tuning, len(everything)), *(["applied: the bot's searches use it by default"] if apply else [])]


def _table(tuning: Tuning, given: int) -> Iterator[str]:
    heading = f"{tuning.questions:,} of {given:,} questions"
    yield f"{heading:<24}   recall@1     MRR@10"
    for one in tuning.measured:
        yield f"{_name(one.setting):<24} {one.recall_at_1:10.3f} {one.mrr_at_10:10.3f}"
    best = tuning.best
    yield f"best: {_name(best.setting)}; recall@1 is known to \u00b1{_margin(tuning):.3f}"
    if tuning.never_found:
        lines = ", ".join(str(question.line) for question in tuning.never_found[:SHOWN_LINES])
        yield f"questions that no setting answered: {len(tuning.never_found)}, the first in lines {lines}"


def _margin(tuning: Tuning) -> float:
    """Half of the 95 % confidence interval of the best recall@1. A smaller difference may be chance."""
    share = tuning.best.recall_at_1
    return 1.96 * math.sqrt(share * (1 - share) / tuning.questions)


def _name(setting: Setting) -> str:
    return setting.mode if setting.dense_weight is None else f"{setting.mode} {setting.dense_weight}"
