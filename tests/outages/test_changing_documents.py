"""Documents that are replaced all the time do not disappear, on a real Milvus server whose ticks are 200 ms apart."""

import pytest

from tests.outages.changing import run


@pytest.mark.parametrize("processes", [1, 2])
async def test_documents_that_change_are_in_every_answer(processes: int) -> None:
    seen = await run(5.0, processes)
    assert (seen.missing, seen.refused) == (0, {})
    assert len(seen.seconds) > 3
