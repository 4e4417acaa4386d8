"""A small file system that a test can fill and free."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


class CannotMount(Exception):
    """This machine cannot mount a tmpfs."""


class SmallDisk:
    """A tmpfs of ``size`` bytes on ``folder``."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self._size = size

    def fill(self, spare: int = 0) -> None:
        """Leaves ``spare`` free bytes, by shrinking the file system to its contents."""
        for _ in range(100):
            found = os.statvfs(self.folder)
            used = (found.f_blocks - found.f_bfree) * found.f_frsize
            if self._resize(max(used, 1) + spare):  # It fails if more was written meanwhile.
                return
        raise RuntimeError(f"{self.folder} cannot be filled")

    def free(self) -> None:
        assert self._resize(self._size)

    def _resize(self, size: int) -> bool:
        command = ["mount", "-o", f"remount,size={size}", str(self.folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def small_disk(folder: Path, size: int = 2 << 30) -> Iterator[SmallDisk]:
    """Creates ``folder`` and mounts a tmpfs there. It takes memory only for what is written. Raises CannotMount."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(folder)]
    try:
        subprocess.run(command, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        raise CannotMount("mounting a tmpfs needs root") from exc
    try:
        yield SmallDisk(folder, size)
    finally:
        # Lazily, because a killed process may still be ending.
        subprocess.run(["umount", "-l", str(folder)], check=True)


def can_mount() -> bool:
    with tempfile.TemporaryDirectory() as folder, suppress(CannotMount), small_disk(Path(folder) / "disk"):
        return True
    return False


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    """A small disk; skips the test if none can be mounted."""
    # Not pytest's folder: as root, PostgreSQL runs as another user, who cannot open it.
    with tempfile.TemporaryDirectory(prefix="chat-memory-disk-") as folder:
        os.chmod(folder, 0o755)
        try:
            with small_disk(Path(folder) / "data") as mounted:
                yield mounted
        except CannotMount as exc:
            pytest.skip(str(exc))
