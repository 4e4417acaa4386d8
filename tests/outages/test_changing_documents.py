"""Documents that are replaced continuously never disappear from searches, on a Milvus server with ticks of 200 ms."""

import pytest

from tests.outages.changing import run


@pytest.mark.parametrize("processes", [1, 2])
async def test_replaced_documents_are_in_every_answer(processes: int) -> None:
    seen = await run(5.0, processes)
    assert (seen.missing, seen.refused) == (0, {})
    assert len(seen.seconds) > 3
