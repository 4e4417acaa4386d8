"""What each kind of job does. The commands of ``app.cli`` call the same objects."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from app.core.operations.model_migration import MigrationResult, ModelMigrator
from app.core.operations.questions import Question
from app.core.operations.repair import Repairer
from app.core.operations.tuning import Measured, Tuner, thinned
from app.core.operations.vector_check import VectorCheck
from app.core.operations.verify import SHOWN, Findings, Verifier
from app.schemas.operation_rows import JobKind, JobProgress, JobUnit
from app.schemas.rows import BotState, Progress
from app.utils.errors import AppError, ModelMismatch

Report = Callable[[JobProgress], object]
Result = dict[str, Any]
Work = Callable[[UUID | None, Mapping[str, Any], Report], Awaitable[Result]]


class JobWork:
    """Each method takes the bot, or None for all bots, the job's options and a function that is told the progress.

    It returns the result as JSON. It can be cancelled at any point and called again: what is done stays done.
    """

    def __init__(
        self,
        verifier: Verifier,
        vector_check: VectorCheck,
        repairer: Repairer,
        migrator: ModelMigrator,
        tuner: Tuner,
    ) -> None:
        self._verifier = verifier
        self._vector_check = vector_check
        self._repairer = repairer
        self._migrator = migrator
        self._tuner = tuner

    def of(self, kind: JobKind) -> Work:
        works: dict[JobKind, Work] = {
            "verify": self.verify,
            "repair": self.repair,
            "rebuild": self.rebuild,
            "reembed": self.reembed,
            "reindex": self.reindex,
            "tune": self.tune,
        }
        return works[kind]

    async def verify(self, bot_id: UUID | None, options: Mapping[str, Any], report: Report) -> Result:
        """Compares the stores. ``vectors``: also embeds texts again; ``sample``: only so many of each bot."""
        found = Findings()
        if bot_id is None:
            await found.add(self._verifier.check_all())
        failed = []
        async for bot in self._each_state(bot_id, report):
            await found.add(self._verifier.check_bot(bot))
            if options.get("vectors"):
                try:
                    await found.add(self._vector_check.check_bot(bot.bot_id, options.get("sample")))
                except ModelMismatch as exc:  # Of a bot whose model this server does not have.
                    failed.append(_failure(bot.bot_id, exc))
        return {"findings": found.total, **found.as_json(), **_failures(failed)}

    async def repair(self, bot_id: UUID | None, options: Mapping[str, Any], report: Report) -> Result:
        """Repairs what verify finds, then verifies again: ``findings`` are those that are left."""
        repaired, left, failed = Findings(), Findings(), []
        await self._repairer.finish_abandoned_sagas()
        async for bot in self._each_state(bot_id, report):
            try:
                await repaired.add(self._repairer.repair_bot(bot.bot_id))
                if options.get("vectors"):
                    findings = self._vector_check.check_bot(bot.bot_id, options.get("sample"))
                    await repaired.add(self._repairer.repair_found(bot.bot_id, findings))
            except AppError as exc:
                failed.append(_failure(bot.bot_id, exc))
            await left.add(self._verifier.check_now(bot.bot_id))  # ``bot`` is from before the repair.
        if bot_id is None:
            await left.add(self._verifier.check_all())
        return {"repaired": repaired.total, "findings": left.total, **repaired.as_json(), **_failures(failed)}

    async def rebuild(self, bot_id: UUID | None, _: Mapping[str, Any], report: Report) -> Result:
        """Makes the vectors of a bot again that Milvus lost; returns at once if it lost none."""
        assert bot_id is not None
        last = Progress(0, 0)

        def show(progress: Progress) -> None:
            nonlocal last
            last = progress
            report(JobProgress(progress.done, progress.total, "chunks"))

        await self._repairer.rebuild(bot_id, show)
        return {"chunks": last.total}

    async def reembed(self, bot_id: UUID | None, _: Mapping[str, Any], report: Report) -> Result:
        """Moves bots to the server's model, EMBEDDING_MODEL."""
        bots = [bot.bot_id for bot in await self._migrator.bots()] if bot_id is None else [bot_id]
        return await self._migrate(bots, bot_id is None, self._migrator.run, report)

    async def reindex(self, bot_id: UUID | None, options: Mapping[str, Any], report: Report) -> Result:
        """Writes the words of bots again; of all bots those with an earlier analyzer. ``titles``: with titles."""

        async def run(one: UUID, progress: Callable[[int], object]) -> MigrationResult | None:
            return await self._migrator.reindex(one, progress, titles=options.get("titles"))

        bots = await self._migrator.outdated() if bot_id is None else [bot_id]
        return await self._migrate(bots, bot_id is None, run, report)

    async def tune(self, bot_id: UUID | None, options: Mapping[str, Any], report: Report) -> Result:
        """Measures each mode and weight with ``questions``. ``apply``: makes the best the bot's default."""
        assert bot_id is not None
        questions = thinned([_question(number, one) for number, one in enumerate(options["questions"])])
        grid = await self._tuner.grid(bot_id)
        counted = _Counted(report, len(grid) * len(questions), "questions")
        tuning = await self._tuner.run(bot_id, questions, grid, counted.add)
        if options.get("apply"):
            await self._tuner.apply(bot_id, tuning.best.setting)
        return {
            "questions": tuning.questions,
            "measured": [_measured(one) for one in tuning.measured],
            "best": _measured(tuning.best),
            "never_found": [question.text for question in tuning.never_found[:SHOWN]],
            "applied": bool(options.get("apply")),
        }

    async def _each_state(self, bot_id: UUID | None, report: Report) -> AsyncIterator[BotState]:
        bots = await self._verifier.bots(bot_id)
        for done, bot in enumerate(bots):
            report(JobProgress(done, len(bots), "bots"))
            yield bot
        report(JobProgress(len(bots), len(bots), "bots"))

    async def _migrate(
        self,
        bots: Sequence[UUID],
        several: bool,
        run: Callable[[UUID, Callable[[int], object]], Awaitable[MigrationResult | None]],
        report: Report,
    ) -> Result:
        changed = chunks = 0
        failed = []
        total = sum([await self._migrator.chunks(bot_id) for bot_id in bots])
        counted = _Counted(report, total, "chunks")
        for bot_id in bots:
            try:
                done = await run(bot_id, counted.add)
            except AppError as exc:
                if not several:
                    raise
                failed.append(_failure(bot_id, exc))
            else:
                changed += done is not None
                chunks += done.copied if done else 0
        return {"bots": len(bots), "changed": changed, "chunks": chunks, **_failures(failed)}


class _Counted:
    """Reports a growing number of units; more than ``total`` where documents were added meanwhile."""

    def __init__(self, report: Report, total: int, unit: JobUnit) -> None:
        self._report = report
        self._total = total
        self._unit = unit
        self._done = 0
        self.add(0)

    def add(self, count: int) -> None:
        self._done += count
        self._report(JobProgress(self._done, max(self._total, self._done), self._unit))


def _question(number: int, one: Mapping[str, Any]) -> Question:
    answer = {key: one.get(key) for key in ("doc_id", "passage", "title", "external_id")}
    return Question(one["question"], line=number + 1, **answer)


def _measured(one: Measured) -> Result:
    return {
        "mode": one.setting.mode,
        "dense_weight": one.setting.dense_weight,
        "recall_at_1": one.recall_at_1,
        "mrr_at_10": one.mrr_at_10,
    }


def _failure(bot_id: UUID, error: AppError) -> dict[str, str]:
    return {"chat_bot_id": str(bot_id), "code": error.code, "detail": error.detail}


def _failures(failed: Sequence[dict[str, str]]) -> Result:
    return {"failed_bots": len(failed), "failures": list(failed[:SHOWN])}
