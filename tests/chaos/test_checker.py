"""The crash tester finds a violation when one line of the design is broken on purpose."""

import asyncio
import os
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator

import pytest

from tests.chaos.breaks import LITE_FULL_DISK
from tests.chaos.processes import ROOT
from tests.small_disk import can_mount

BREAKS = {"lite-write-lock": "13", "generation-join": "23", "gc-once": "1", "lease-check": "13", "lite-full-disk": "13"}
"""By the broken line, the numbers of the invariants that it can violate: each digit is one of them."""


@pytest.fixture(scope="module")
async def testers() -> AsyncIterator[dict[str, Process]]:
    """A crash test for each broken line. They wait most of their time, so that they run at once."""
    started = {}
    # A crash test keeps the files of a violation.
    with tempfile.TemporaryDirectory(prefix="chat-memory-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)  # PostgreSQL runs as another user where tests run as root.
        for name in BREAKS:
            command = ("-m", "tests.chaos.crash_test", "--kills", "12", "--seed", "1", "--break", name)
            started[name] = await asyncio.create_subprocess_exec(
                sys.executable, *command, cwd=ROOT, env=os.environ | {"TMPDIR": folder}, stdout=PIPE, stderr=PIPE
            )
        yield started
        for process in started.values():
            if process.returncode is None:
                process.terminate()
            await process.communicate()


@pytest.mark.parametrize("name", BREAKS)
async def test_a_broken_line_is_found(testers: dict[str, Process], name: str) -> None:
    if name == LITE_FULL_DISK and not can_mount():
        pytest.skip("mounting a tmpfs needs root")
    output, errors = await testers[name].communicate()
    report = errors.decode()
    assert testers[name].returncode == 1, output.decode() + report
    assert "VIOLATION with seed 1" in report, report
    assert any(f"invariant {number}:" in report for number in BREAKS[name]), report
