"""The keeper of the embedded stores: processes are started, shared, killed and replaced."""

import asyncio
import ctypes
import os
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import numpy as np
import psutil
import pytest

from app.core.stores.embedded.postgres_process import EmbeddedPostgres
from app.core.stores.embedded.runtime_dir import runtime_dir, socket_dir
from app.core.stores.embedded.stores import EmbeddedStores, begin_embedded_stores, embedded_stores
from app.core.stores.milvus.index import MilvusIndex
from app.utils.errors import StartupError
from tests.conftest import until
from tests.milvus_index import connect_index

DATABASE = "rag_db_chatty"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The temporary directory, where sockets are whose path would be too long. It is short, and deleted afterwards."""
    tmp_path_factory.getbasetemp()  # Of the whole run: else it is made in this folder, and deleted with it.
    with tempfile.TemporaryDirectory(prefix="chat-memory-") as folder:
        os.chmod(folder, 0o755)  # PostgreSQL runs as another user where tests run as root.
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr("tempfile.tempdir", folder)
        yield Path(folder)


@pytest.fixture
async def data_dir(tmp_path: Path) -> AsyncIterator[Path]:
    yield tmp_path / "data"
    try:
        await until(lambda: all_gone(tmp_path / "data"), seconds=2)
    except TimeoutError:
        left = processes(tmp_path / "data")
        for process in left:
            process.kill()
        pytest.fail(f"left running: {left}")


async def all_gone(data_dir: Path) -> bool:
    return processes(data_dir) == []


def processes(data_dir: Path, *words: str) -> list[psutil.Process]:
    """Running processes whose command line names the directory and all the words."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or ())
        here = str(data_dir) in line and all(word in line for word in words)
        if here and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def stores(data_dir: Path):  # type: ignore[no-untyped-def]
    return embedded_stores(data_dir, postgres=True, milvus=True, database=DATABASE)


async def write_and_count(opened: EmbeddedStores) -> int:
    """Adds a row to each store; returns how many PostgreSQL has, which must be Milvus's number too."""
    assert opened.postgres is not None
    assert opened.milvus_uri is not None
    address = opened.postgres
    conn = await asyncpg.connect(host=address.host, port=address.port, user=address.user, database=address.database)
    try:
        await conn.execute("CREATE TABLE IF NOT EXISTS t (n int GENERATED ALWAYS AS IDENTITY)")
        number: int = await conn.fetchval("INSERT INTO t DEFAULT VALUES RETURNING (SELECT count(*) + 1 FROM t)::int")
    finally:
        await conn.close()
    index = await connect_index(opened.milvus_uri)
    try:
        await index.create("t", 4)
        key = np.array([number], np.int64)
        await index.upsert("t", key, key, np.ones((1, 4), np.float32))
        assert await index.present("t", [(0, 1000)]) == set(range(1, number + 1))
    finally:
        await index.close()
    return number


async def test_data_outlives_a_stop_and_nothing_is_left_running(data_dir: Path) -> None:
    for number in (1, 2):
        async with stores(data_dir) as opened:
            assert await write_and_count(opened) == number
            assert len(processes(data_dir, "embedded.keeper")) == 1
        await until(lambda: all_gone(data_dir), seconds=1)


NAMES = ["with a blank", "한국어 데이터", "가" * 67, "/".join("k" * 100), "per%cent+~@"]


@pytest.mark.parametrize("name", NAMES)
async def test_a_folder_may_be_called_anything(data_dir: Path, name: str) -> None:
    folder = data_dir / name
    for number in (1, 2):
        async with stores(folder) as opened:
            assert await write_and_count(opened) == number
            for socket in (opened.postgres.host, Path(opened.milvus_uri.removeprefix("unix:")).parent):
                assert stat.S_IMODE(os.stat(socket).st_mode) == 0o700


@pytest.mark.parametrize("name", ["a $HOME", 'a "quote', "a `tick`", "back\\slash", "two\nlines"])
async def test_what_postgres_programs_would_misread_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StartupError, match=r"^DATA_DIR .* choose another\.$"):
        async with stores(tmp_path / name):
            pass


def test_a_socket_folder_of_another_owner_is_not_used(tmp_path: Path, temporary: Path) -> None:
    (tmp_path / "target").mkdir()
    wanted = tmp_path / "with a blank" / "run"
    assert socket_dir(wanted).parent == temporary
    socket_dir(wanted).symlink_to(tmp_path / "target")
    with pytest.raises(PermissionError):
        runtime_dir(wanted.parent)


async def test_users_share_one_keeper_and_the_last_one_stops_it(data_dir: Path) -> None:
    async with stores(data_dir):
        async with stores(data_dir) as second:
            assert await write_and_count(second) == 1
        async with stores(data_dir) as third:
            assert await write_and_count(third) == 2
        assert len(processes(data_dir, "embedded.keeper")) == 1


async def test_many_start_at_once(data_dir: Path) -> None:
    entered = asyncio.Barrier(5)

    async def use() -> None:
        async with stores(data_dir):
            await entered.wait()
            assert len(processes(data_dir, "embedded.keeper")) == 1

    await asyncio.gather(*(use() for _ in range(5)))


async def test_only_what_is_asked_for_is_started(data_dir: Path) -> None:
    async with embedded_stores(data_dir, postgres=False, milvus=True, database=DATABASE) as opened:
        assert opened.postgres is None
        assert processes(data_dir, str(data_dir / "postgres")) == []


async def test_stores_that_were_begun_early_are_the_ones_that_are_used(data_dir: Path) -> None:
    begin_embedded_stores(data_dir, postgres=True, milvus=True, database=DATABASE)

    async def begun() -> bool:
        return (data_dir / "postgres" / "postmaster.pid").exists()

    await until(begun, seconds=30)
    [early] = processes(data_dir, "embedded.keeper")
    async with stores(data_dir) as opened:
        assert opened.postgres is not None
        assert processes(data_dir, "embedded.keeper") == [early]
    assert processes(data_dir) == []


USER = """
import asyncio
from pathlib import Path
from app.core.stores.embedded.stores import embedded_stores
async def main():
    async with embedded_stores(Path({data_dir!r}), postgres=True, milvus=True, database="rag_db_chatty"):
        print("in", flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


async def test_a_killed_user_takes_the_stores_with_it(data_dir: Path) -> None:
    code = textwrap.dedent(USER).format(data_dir=str(data_dir))
    user = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    assert user.stdout is not None
    assert await user.stdout.readline() == b"in\n"
    user.kill()
    await user.wait()

    await until(lambda: all_gone(data_dir))


@pytest.mark.parametrize("victim", [["embedded.keeper"], ["milvus_lite.server"], ["postgres", "-D"], []])
async def test_after_any_kill_a_start_works_and_keeps_the_data(data_dir: Path, victim: list[str]) -> None:
    async with stores(data_dir) as opened:
        assert await write_and_count(opened) == 1
        for process in processes(data_dir, *victim):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        await until(lambda: answers(lambda: check_two(data_dir)), seconds=30)


async def check_two(data_dir: Path) -> None:
    async with stores(data_dir) as opened:
        assert await write_and_count(opened) >= 2


async def answers(attempt: Callable[[], Awaitable[None]]) -> bool:
    """Whether it works by now: a killed store takes a moment to be started again."""
    try:
        await attempt()
    except (OSError, asyncpg.PostgresError, StartupError):
        return False
    return True


def test_a_killed_postmaster_that_stays_a_zombie_is_replaced(tmp_path: Path) -> None:
    """As in a container whose first process does not reap orphans."""
    set_child_subreaper = 36
    prctl = ctypes.CDLL(None).prctl
    prctl(set_child_subreaper, 1)
    orphans: list[int] = []

    def postmaster() -> psutil.Process:
        return psutil.Process(int((tmp_path / "postgres" / "postmaster.pid").read_text().split()[0]))

    try:
        EmbeddedPostgres(tmp_path / "postgres").start(DATABASE)
        killed = postmaster()
        for victim in [killed, *killed.children()]:
            orphans.append(victim.pid)
            victim.kill()
        while killed.status() != psutil.STATUS_ZOMBIE:
            pass
        postgres = EmbeddedPostgres(tmp_path / "postgres")
        postgres.start(DATABASE)
        postgres.restart_if_dead()
        orphans.append(postmaster().pid)
        postgres.stop()
    finally:
        prctl(set_child_subreaper, 0)
        for pid in orphans:
            os.waitpid(pid, 0)


async def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match="DATA_DIR"):
        async with stores(tmp_path / "file" / "data"):
            pass


async def test_concurrent_writers_lose_nothing_at_kill(data_dir: Path) -> None:
    acknowledged: set[int] = set()

    async def write(index: MilvusIndex, writer: int) -> None:
        for number in range(40):
            key = np.array([writer * 1000 + number], np.int64)
            await index.upsert("t", key, key, np.full((1, 8), 1 + number, np.float32))
            acknowledged.add(int(key[0]))

    async with embedded_stores(data_dir, postgres=False, milvus=True, database=DATABASE) as opened:
        assert opened.milvus_uri is not None
        index = await connect_index(opened.milvus_uri)
        await index.create("t", 8)
        await asyncio.gather(*(write(index, writer) for writer in range(8)))
        [lite] = processes(data_dir, "milvus_lite.server")
        lite.kill()
        await index.close()
    async with embedded_stores(data_dir, postgres=False, milvus=True, database=DATABASE) as opened:
        assert opened.milvus_uri is not None
        index = await connect_index(opened.milvus_uri)
        await index.load("t")  # Milvus Lite opens collections without loading them.
        assert await index.present("t", [(0, 65536)]) == acknowledged
        await index.close()
    assert len(acknowledged) == 320


async def count(opened: EmbeddedStores) -> int:
    assert opened.postgres is not None
    address = opened.postgres
    conn = await asyncpg.connect(host=address.host, port=address.port, user=address.user, database=address.database)
    try:
        rows: int = await conn.fetchval("SELECT count(*) FROM t")
    finally:
        await conn.close()
    return rows


async def test_a_copy_of_a_running_folder_has_stores_of_its_own(data_dir: Path) -> None:
    copy = data_dir.with_name("copy")
    async with stores(data_dir) as opened:
        assert await write_and_count(opened) == 1
        await asyncio.to_thread(subprocess.run, ["cp", "-a", data_dir, copy], check=True)
        async with stores(copy) as copied:
            assert copied.folder != opened.folder
            assert copied.postgres != opened.postgres
            assert await write_and_count(copied) == 2
            assert await count(opened) == 1
        await until(lambda: all_gone(copy))
        assert await write_and_count(opened) == 2
    async with stores(copy) as again:
        assert again.folder == copied.folder
        assert await write_and_count(again) == 3


async def test_a_copy_of_a_stopped_folder_has_stores_of_its_own(data_dir: Path) -> None:
    async with stores(data_dir) as opened:
        assert await write_and_count(opened) == 1
    copy = data_dir.with_name("copy")
    await asyncio.to_thread(subprocess.run, ["cp", "-a", data_dir, copy], check=True)
    async with stores(copy) as copied, stores(data_dir) as original:
        assert original.folder == opened.folder != copied.folder
        assert await write_and_count(copied) == 2
        assert await count(original) == 1


async def test_a_moved_folder_is_the_same(data_dir: Path) -> None:
    old = data_dir.with_name("old")
    async with stores(old) as opened:
        assert await write_and_count(opened) == 1
    old.rename(data_dir)
    async with stores(data_dir) as moved:
        assert moved.folder == opened.folder
        assert await write_and_count(moved) == 2


async def test_a_copy_whose_original_was_killed(data_dir: Path) -> None:
    """Its locks name processes that are gone, and may be any other's by now."""
    copy = data_dir.with_name("copy")
    async with stores(data_dir) as opened:
        assert await write_and_count(opened) == 1
        await asyncio.to_thread(subprocess.run, ["cp", "-a", data_dir, copy], check=True)
        for process in processes(data_dir):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        async with stores(copy) as copied:
            assert await write_and_count(copied) == 2
