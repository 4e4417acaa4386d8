"""The crash tester notices each line of the design that is broken on purpose."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator

import pytest

from tests.chaos.breaks import LITE_FULL_DISK
from tests.chaos.processes import ROOT
from tests.small_disk import can_mount

# What each of them breaks, by the design's numbers of the invariants.
BREAKS = {"lite-write-lock": "13", "generation-join": "23", "gc-once": "1", "lease-check": "13", "lite-full-disk": "13"}


@pytest.fixture(scope="module")
async def testers() -> AsyncIterator[dict[str, Process]]:
    """One for each broken line; most of their time they wait, so they run together."""
    started = {}
    for name in BREAKS:
        command = ("-m", "tests.chaos.crash_test", "--kills", "12", "--seed", "1", "--break", name)
        started[name] = await asyncio.create_subprocess_exec(
            sys.executable, *command, cwd=ROOT, stdout=PIPE, stderr=PIPE
        )
    yield started
    for process in started.values():
        if process.returncode is None:
            process.terminate()
            await process.wait()


@pytest.mark.parametrize("name", BREAKS)
async def test_broken_line_is_noticed(testers: dict[str, Process], name: str) -> None:
    if name == LITE_FULL_DISK and not can_mount():
        pytest.skip("mounting a tmpfs needs root")
    output, errors = await testers[name].communicate()
    report = errors.decode()
    assert testers[name].returncode == 1, output.decode() + report
    assert "VIOLATION with seed 1" in report, report
    assert any(f"invariant {number}:" in report for number in BREAKS[name]), report
