"""Deletes of garbage end with the claim under which they were begun."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from app.core.ports import DELETE_KEYS
from app.core.write.recovery import Recovery
from app.schemas.operation_rows import VectorGarbage

CLAIM = 30.0
ROWS = [
    VectorGarbage(generation, 1000, f"c{number}", datetime(2000, 1, 1, tzinfo=UTC), True)
    for number in range(2)
    for generation in range(3)
]


@dataclass
class Clock:
    """The event loop's time, ahead by ``ahead`` seconds."""

    time: Callable[[], float]
    ahead: float = 0.0

    def __call__(self) -> float:
        return self.time() + self.ahead


@pytest.mark.parametrize("late", [False, True])
async def test_no_delete_begins_after_the_claim(late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    clock = Clock(loop.time)
    monkeypatch.setattr(loop, "time", clock)
    deleted: list[tuple[str, int]] = []

    async def delete(collection: str, keys: Sequence[int]) -> None:
        deleted.append((collection, len(keys)))
        clock.ahead += CLAIM * late

    index = Mock(delete=delete, present=AsyncMock(return_value=set()))
    garbage = Mock(claim=AsyncMock(side_effect=[ROWS, []]), complete=AsyncMock(), reschedule=AsyncMock())
    recovery: Any = Recovery(
        Mock(compensate_expired=AsyncMock(return_value=0), sweep_recent_vectors=AsyncMock()),
        garbage,
        Mock(claim_expired=AsyncMock(return_value=None)),
        Mock(),
        index,
        Mock(token=None, length=timedelta(seconds=CLAIM)),
        [Mock(sweep=AsyncMock())],
        interval=1.0,
        claim=CLAIM,
    )
    await recovery.run_round()
    whole = [("c0", DELETE_KEYS), ("c0", 3000 - DELETE_KEYS), ("c1", DELETE_KEYS), ("c1", 3000 - DELETE_KEYS)]
    assert deleted == (whole[:1] if late else whole)
    assert garbage.complete.await_count == (0 if late else 2)
