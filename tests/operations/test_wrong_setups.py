"""Each wrong set-up of docs/ops/wrong-setups.md is made here, and start-up prints the line documented there."""

import asyncio
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from app.config import Settings
from app.core.stores.address import PostgresAddress
from tests.certificates import Certificates
from tests.conftest import connect_admin
from tests.embedding.openai_server import OpenAIServer, Reply
from tests.guarded_milvus import PASSWORD as MILVUS_PASSWORD
from tests.guarded_milvus import ROOT as MILVUS_ROOT
from tests.guarded_milvus import GuardedMilvus, guarded_milvus
from tests.milvus_server import free_ports
from tests.tls_postgres import PASSWORD as POSTGRES_PASSWORD
from tests.tls_postgres import system_postgres, tls_postgres

REPOSITORY = Path(__file__).resolve().parents[2]
TABLE = REPOSITORY / "docs" / "ops" / "wrong-setups.md"
ROW = re.compile(r"^\| (?P<setup>.+?) \| `(?P<line>[^`]+)` \|$", re.MULTILINE)
DOCUMENTED = {row["setup"]: row["line"] for row in ROW.finditer(TABLE.read_text(encoding="utf-8"))}
LOGGED = re.compile(r"^\S+ \S+ (?:ERROR|WARNING) +\[-\] [\w.]+: ")
SECRETS = (POSTGRES_PASSWORD, "a password:", MILVUS_PASSWORD, MILVUS_ROOT, "sk-secret")
Values = dict[str, str]

# Each: what is wrong, as in the table; the settings, where {names} are filled in.
SETTINGS: dict[str, Values] = {
    "a value that a setting cannot have": {"LOG_LEVEL": "LOUD"},
    "a number that is none": {"POSTGRES_PORT": "none"},
    "settings that contradict each other": {"MAX_BUFFERED_BYTES": "1048576"},
    "a port that is taken": {"PORT": "{taken}"},
    "a `DATA_DIR` that cannot be written": {"DATA_DIR": "{folder}/file/data"},
    "a connection URI as `POSTGRES_HOST`": {"POSTGRES_HOST": "postgres://user:sk-secret@host/db"},
    "a `MILVUS_URI` whose password has a special character": {"MILVUS_URI": "https://root:sk-secret#1@milvus"},
    "`openai` without a key": {"EMBEDDING_MODEL": "openai"},
    "TLS that is to be verified, without a CA": {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_SSLMODE": "verify-full"},
    "a file for TLS that is missing": {
        "MILVUS_URI": "https://127.0.0.1:19530",
        "MILVUS_TLS_CA": "{folder}/missing.pem",
    },
}
POSTGRES: dict[str, Values] = {
    "a PostgreSQL that cannot be reached": {
        "POSTGRES_PORT": "{closed}",
        "STARTUP_TIMEOUT": "1",
        "MILVUS_URI": "",  # Milvus Lite, which answers.
    },
    "a wrong PostgreSQL password": {"POSTGRES_PASSWORD": "sk-secret"},
    "a database that does not exist": {"POSTGRES_DB_NAME": "missing"},
    "a database that is not in UTF8": {"POSTGRES_DB_NAME": "korean"},
    "a PostgreSQL that takes TLS alone, without it": {"POSTGRES_SSLMODE": "disable"},
    "a PostgreSQL certificate of another CA": {
        "POSTGRES_SSLMODE": "verify-full",
        "POSTGRES_SSLROOTCERT": "{other_ca}",
    },
}
MILVUS: dict[str, Values] = {
    "a Milvus that cannot be reached": {"MILVUS_URI": "http://127.0.0.1:{closed}", "STARTUP_TIMEOUT": "1"},
    "a wrong Milvus token": {"MILVUS_TOKEN": "root:sk-secret"},
    "a Milvus user without privileges": {"MILVUS_TOKEN": "{bare}"},
    "a Milvus database that does not exist": {"MILVUS_DB_NAME": "missing"},
    "a Milvus certificate of another CA": {"MILVUS_TLS_CA": "{other_ca}"},
    "no API key yet": {"AUTH_DISABLED": "false"},
    "an `EMBEDDING_DIMENSION` that is not the model's": {"EMBEDDING_DIMENSION": "384"},
    "a key that the embedding provider refuses": {
        "EMBEDDING_MODEL": "openai",
        "OPENAI_BASE_URL": "{openai}",
        "OPENAI_API_KEY": "sk-secret",
    },
}
ENV_FILE = "a password in `.env` with a blank and #, unquoted"


@dataclass
class Place:
    """Where set-ups are made."""

    folder: Path
    names: dict[str, str]
    public: dict[str, str]
    """What stands in a line by chance, and what the table has for it."""


async def start(place: Place, values: Values) -> list[str]:
    """What the server prints at WARNING and above, until it gives up."""
    environment = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    chosen = {"AUTH_DISABLED": "true", "PORT": place.names["free"], "PYTHONPATH": str(REPOSITORY)} | values
    environment |= {name: value.format_map(place.names) for name, value in chosen.items()}
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app.serve", cwd=place.folder, env=environment, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(120):
            _, output = await server.communicate()
    finally:
        if server.returncode is None:
            server.kill()
            await server.wait()
    assert server.returncode in (2, 3)
    text = output.decode()
    assert "Traceback" not in text
    assert not [secret for secret in SECRETS if secret in text]
    for actual, told in place.public.items():
        text = text.replace(actual, told)
    lines = [line for line in text.splitlines() if server.returncode == 2 or LOGGED.match(line)]
    return [LOGGED.sub("", line) for line in lines]


def final(lines: list[str]) -> str:
    """The one line that says why."""
    told = [line for line in lines if not line.startswith(("AUTH_DISABLED=true", "Milvus call failed"))]
    if told[1:]:
        assert told[1:] == ["Application startup failed. Exiting."]
    return told[0]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    (tmp_path / "file").touch()
    free, closed = free_ports(2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        names = {
            "folder": str(tmp_path),
            "free": str(free),
            "closed": str(closed),
            "taken": str(taken.getsockname()[1]),
        }
        yield Place(tmp_path, names, {str(tmp_path): "/srv/chat", f":{names['taken']} ": ":8000 "})


@pytest.mark.parametrize("setup", SETTINGS)
async def test_wrong_settings_print_their_line(place: Place, setup: str) -> None:
    [line] = await start(place, SETTINGS[setup])
    assert line == DOCUMENTED[setup]


@pytest.fixture(scope="module")
def tls_server() -> Iterator[tuple[PostgresAddress, Certificates]]:
    if system_postgres() is None:
        pytest.skip("needs a PostgreSQL with TLS (Debian: postgresql); the wheel's has none")
    with tls_postgres() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def on_postgres(place: Place, tls_server: tuple[PostgresAddress, Certificates]) -> tuple[Place, Values]:
    address, certificates = tls_server
    place.names |= {"other_ca": str(certificates.other_ca)}
    place.public |= {f":{port}": ":5432" for port in (address.port, place.names["closed"])}
    assert address.password is not None
    return place, {
        "POSTGRES_HOST": address.host,
        "POSTGRES_PORT": str(address.port),
        "POSTGRES_DB_NAME": "postgres",
        "POSTGRES_SSLMODE": "require",
        "POSTGRES_PASSWORD": address.password.get_secret_value().replace("{", "{{").replace("}", "}}"),
        "MILVUS_URI": f"http://127.0.0.1:{place.names['closed']}",
    }


@pytest.mark.parametrize("setup", POSTGRES)
async def test_a_wrong_postgresql_prints_its_line(
    on_postgres: tuple[Place, Values], tls_server: tuple[PostgresAddress, Certificates], setup: str
) -> None:
    place, right = on_postgres
    if POSTGRES[setup].get("POSTGRES_DB_NAME") == "korean":
        admin = await connect_admin(tls_server[0])
        await admin.execute("CREATE DATABASE korean ENCODING 'EUC_KR' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
        await admin.close()
    assert final(await start(place, right | POSTGRES[setup])) == DOCUMENTED[setup]


async def test_a_password_that_the_env_file_cuts_is_reported(on_postgres: tuple[Place, Values]) -> None:
    place, right = on_postgres
    del right["POSTGRES_PASSWORD"]
    (place.folder / ".env").write_text(f"POSTGRES_PASSWORD={POSTGRES_PASSWORD}\n")
    first, *rest = await start(place, right)
    assert first == DOCUMENTED[ENV_FILE]
    assert final(rest) == DOCUMENTED["a wrong PostgreSQL password"]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedMilvus]:
    with guarded_milvus(tmp_path_factory.mktemp("guarded")) as running:
        yield running


@pytest.fixture(scope="module")
def bare_token(guarded: GuardedMilvus) -> str:
    return guarded.make_user("bare")


@pytest_asyncio.fixture(loop_scope="session")
async def on_milvus(
    place: Place, address: PostgresAddress, guarded: GuardedMilvus, bare_token: str
) -> AsyncIterator[tuple[Place, Values]]:
    openai = OpenAIServer()
    openai.always = lambda _: Reply(401, {"error": {"message": "Incorrect API key provided."}})
    port = guarded.server.uri.rpartition(":")[2]
    place.names |= {"bare": bare_token, "other_ca": str(guarded.certificates.other_ca), "openai": openai.url}
    place.public |= {f":{given}": ":19530" for given in (port, place.names["closed"])}
    yield (
        place,
        {
            "POSTGRES_HOST": address.host,
            "POSTGRES_PORT": str(address.port),
            "POSTGRES_DB_NAME": address.database,
            "MILVUS_URI": guarded.server.uri,
            "MILVUS_TLS_CA": str(guarded.certificates.ca),
            "MILVUS_TOKEN": MILVUS_ROOT,
        },
    )
    openai.close()


@pytest.mark.parametrize("setup", MILVUS)
async def test_wrong_milvus_keys_and_models_print_their_line(on_milvus: tuple[Place, Values], setup: str) -> None:
    place, right = on_milvus
    wrong = right | MILVUS[setup]
    if wrong["MILVUS_URI"].startswith("http://"):
        del wrong["MILVUS_TLS_CA"]
    assert final(await start(place, wrong)) == DOCUMENTED[setup]


def test_the_documented_table_has_exactly_these_set_ups() -> None:
    assert list(DOCUMENTED) == [*SETTINGS, *POSTGRES, ENV_FILE, *MILVUS]
