"""The server confined as by docker-compose.yml: a read-only file system, no root, no capabilities."""

import asyncio
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import httpx
import pytest

from tests.operations.conftest import ROOT, served

USER = pwd.getpwnam("nobody").pw_uid
"""PostgreSQL needs a user with a name."""
CONFINED = """\
set -e
mount --bind "$FOLDER" "$FOLDER"
while read -r _ at _; do
    case "$at" in /proc*|/sys*|/dev*|"$FOLDER") continue ;; esac
    mount -o remount,bind,ro "$at"
done </proc/self/mounts
exec setpriv --reuid "$AS" --regid "$AS" --clear-groups --no-new-privs --inh-caps -all,+dac_read_search \
    --ambient-caps -all,+dac_read_search --bounding-set -all,+dac_read_search "$@"
"""
"""Everything but one folder is read-only. One capability stays, to read: the interpreter may be in root's home."""


def _confining(folder: Path) -> list[str]:
    settings = [
        f"FOLDER={folder}",
        f"AS={USER}",
        "HOME=/nonexistent",
        f"TMPDIR={folder}/tmp",
        "PYTHONDONTWRITEBYTECODE=1",
    ]
    return ["env", *settings, "unshare", "--mount", "--propagation", "private", "bash", "-c", CONFINED, "bash"]


def _can_confine() -> bool:
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "setpriv"))):
        return False
    with _writable_folder() as folder:
        return subprocess.run([*_confining(folder), "true"], check=False, capture_output=True).returncode == 0


@contextmanager
def _writable_folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="chat-memory-confined-") as name:
        folder = Path(name)
        for path in (folder, folder / "tmp", folder / "data"):
            path.mkdir(exist_ok=True)
            os.chown(path, USER, USER)
        yield folder


pytestmark = pytest.mark.skipif(not _can_confine(), reason="needs root and unshare, to make the file system read-only")


def test_only_the_data_folder_can_be_written() -> None:
    with _writable_folder() as folder:

        def writes(path: Path) -> bool:
            done = subprocess.run([*_confining(folder), "touch", str(path)], check=False, capture_output=True)
            return done.returncode == 0

        assert writes(folder / "data" / "x")
        places = [ROOT / "x", ROOT / "app" / "x", Path("/tmp/x"), Path("/var/tmp/x"), Path(sys.prefix) / "x"]
        assert not any(map(writes, places))


async def test_the_server_writes_only_to_its_data_and_temporary_folders() -> None:
    with _writable_folder() as folder:
        async with (
            served(folder, before=_confining(folder), DATA_DIR=str(folder / "data")) as server,
            httpx.AsyncClient(base_url=server.url, timeout=60) as client,
        ):
            status = await asyncio.to_thread(Path(f"/proc/{server.process.pid}/status").read_text)
            assert f"Uid:\t{USER}\t{USER}\t{USER}\t{USER}" in status
            assert "NoNewPrivs:\t1" in status
            bot = {"chat_bot_id": str(uuid4())}
            made = await client.post("/collection/create", json=bot | {"bot_name": "b", "collection_name": "confined"})
            assert made.status_code == 201
            chunks = [{"chunk_index": 0, "text": "광화문은 경복궁의 남쪽 정문이다."}]
            inserted = await client.post("/data/insert", json={"document": bot | {"title": "t"}, "chunks": chunks})
            assert inserted.status_code == 201
            found = await client.post("/search/query", json=bot | {"query_text": "경복궁"})
            assert len(found.json()["results"]) == 1
