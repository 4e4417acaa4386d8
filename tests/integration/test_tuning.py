"""``tune`` over real stores: measures a grid on a bot and sets the best."""

import json
from pathlib import Path
from uuid import uuid4

import pytest

from app.config import Settings
from app.core.operations.questions import Question
from app.core.operations.tuning import WEIGHTS, Setting
from app.core.services import Services
from app.tune import tune
from app.utils.errors import BotNotFound, InvalidInput
from tests.conftest import BotClient
from tests.doubles.memory_index import MemoryIndex


async def filled(bot: BotClient) -> list[Question]:
    """A bot whose answers share words with their questions, and what is asked of it."""
    texts = ("경복궁은 화요일에 문을 닫는다", "남산에는 케이블카가 있다", "한강에서 자전거를 탄다")
    ids = [await bot.insert(text, title=text[:3]) for text in texts]
    return [
        Question("경복궁 화요일", doc_id=ids[0], line=1),
        Question("남산 케이블카", passage="케이블카가", line=2),
        Question("한강 자전거", title="한강에", line=3),
        Question("아무것도 아닌 물음", doc_id=2**40, line=4),
    ]


async def test_a_grid(bot: BotClient, services: Services) -> None:
    questions = await filled(bot)
    grid = await services.tuner.grid(bot.bot_id)
    assert grid[:3] == [Setting("dense"), Setting("lexical"), Setting("hybrid", 0.1)]
    assert len(grid) == 2 + len(WEIGHTS)
    asked: list[int] = []
    tuning = await services.tuner.run(bot.bot_id, questions, grid, asked.append)
    assert sum(asked) == len(grid) * len(questions)
    measured = {one.setting: one for one in tuning.measured}
    assert (measured[Setting("lexical")].recall_at_1, measured[Setting("lexical")].mrr_at_10) == (0.75, 0.75)
    assert tuning.best.recall_at_1 == max(one.recall_at_1 for one in tuning.measured)
    assert [question.line for question in tuning.never_found] == [4]
    bot_row = await services.bots.get(bot.bot_id, None)
    assert (bot_row.default_mode, bot_row.default_dense_weight) == (None, None)


async def test_the_best_is_applied(bot: BotClient, services: Services) -> None:
    await services.tuner.apply(bot.bot_id, Setting("hybrid", 0.7))
    changed = await services.tuner.apply(bot.bot_id, Setting("lexical"))
    assert (changed.default_mode, changed.default_dense_weight) == ("lexical", 0.7)


async def test_without_questions_or_bot(bot: BotClient, services: Services) -> None:
    with pytest.raises(InvalidInput):
        await services.tuner.run(bot.bot_id, [], [Setting("dense")])
    with pytest.raises(BotNotFound):
        await services.tuner.grid(uuid4())


class TestWithoutWords:
    @pytest.fixture
    def index(self) -> MemoryIndex:
        return MemoryIndex(bm25=False)

    async def test_there_is_one_mode(self, bot: BotClient, services: Services) -> None:
        assert await services.tuner.grid(bot.bot_id) == [Setting("dense")]


async def test_the_command(
    bot: BotClient,
    services: Services,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    questions = await filled(bot)
    file = tmp_path / "questions.ndjson"
    lines = [{"question": one.text, "doc_id": one.doc_id} for one in questions if one.doc_id]
    file.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")

    class Opened:
        async def __aenter__(self) -> Services:
            return services

        async def __aexit__(self, *exc: object) -> None:
            return None

    monkeypatch.setattr("app.tune.open_services", lambda _settings: Opened())
    table = await tune(settings, bot.bot_id, file, False)
    assert table[0].startswith("2 of 2 questions")
    assert len(table) == 1 + 11 + 2
    assert table[-1] == "questions that no setting answered: 1, the first in lines 2"
    assert (await services.bots.get(bot.bot_id, None)).default_mode is None
    applied = await tune(settings, bot.bot_id, file, True)
    best = applied[-3].removeprefix("best: ").partition(";")[0]
    now = await services.bots.get(bot.bot_id, None)
    assert best == (f"hybrid {now.default_dense_weight}" if now.default_mode == "hybrid" else now.default_mode)
