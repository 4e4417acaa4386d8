"""A PostgreSQL of the system that takes TLS alone: the wheel's is built without OpenSSL."""

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import SecretStr

from app.core.stores.address import PostgresAddress
from tests.certificates import Certificates, make_certificates
from tests.milvus_server import free_ports, mortal

PASSWORD = "a password: %40 #1 ${HOME}"


def system_postgres() -> Path | None:
    """The folder of its programs: on the PATH or where Debian has it."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return folders[-1] if folders else None


@contextmanager
def tls_postgres() -> Iterator[tuple[PostgresAddress, Certificates]]:
    """The address of role postgres, without TLS parameters, and the certificates. Over TCP it wants TLS and a password;
    role ``certified`` it wants a certificate of."""
    programs = system_postgres()
    assert programs is not None
    # PostgreSQL does not run as root.
    user = _other_user() if os.geteuid() == 0 else None
    with TemporaryDirectory(prefix="chat-memory-tls-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        certificates = make_certificates(folder, client="certified", owner=user)
        (folder / "password").write_text(PASSWORD)
        data = folder / "data"
        data.mkdir(mode=0o700)
        if user is not None:
            os.chown(data, user, -1)
            os.chown(folder / "password", user, -1)
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "postgres", "-E", "UTF8", "--no-locale", "-A", "scram-sha-256",
             "--pwfile", folder / "password", "--no-sync"],
            check=True, capture_output=True, user=user, cwd=folder,
        )  # fmt: skip
        (data / "pg_hba.conf").write_text(
            "hostssl all certified 127.0.0.1/32 cert\nhostssl all all 127.0.0.1/32 scram-sha-256\n"
        )
        (port,) = free_ports(1)
        options = {
            "ssl": "on",
            "ssl_cert_file": certificates.server,
            "ssl_key_file": certificates.server_key,
            "ssl_ca_file": certificates.ca,
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": "",
            "fsync": "off",
        }
        arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                mortal([str(programs / "postgres"), "-D", str(data), *arguments], user),
                stdout=log, stderr=log, cwd=folder,
            )  # fmt: skip
        try:
            _wait_until_ready(programs, port, folder / "log")
            yield PostgresAddress("127.0.0.1", port, "postgres", "postgres", SecretStr(PASSWORD)), certificates
        finally:
            server.terminate()
            server.wait(30)


def _wait_until_ready(programs: Path, port: int, log: Path) -> None:
    deadline = time.monotonic() + 30
    while subprocess.run([programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)], check=False).returncode:
        if time.monotonic() > deadline:
            raise TimeoutError(log.read_text())
        time.sleep(0.05)


def _other_user() -> int:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    raise RuntimeError("no user to run PostgreSQL as")
