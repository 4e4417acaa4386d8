"""A PostgreSQL that takes TLS alone, its certificate signed by a private CA."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.core.stores.address import PostgresAddress, PostgresTls
from app.core.stores.postgres.database import Database
from app.core.stores.postgres.migrations import bring_up_to_date, migrate, newest_revision
from app.schemas.queries import SQL
from app.utils.errors import StartupError
from tests.certificates import Certificates
from tests.tls_postgres import PASSWORD, system_postgres, tls_postgres

pytestmark = pytest.mark.skipif(
    system_postgres() is None, reason="needs a PostgreSQL with TLS (Debian: postgresql); the wheel's has none"
)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[PostgresAddress, Certificates]]:
    with tls_postgres() as running:
        yield running


async def connect(address: PostgresAddress, **tls: object) -> Database:
    trusting = replace(address, tls=PostgresTls(**tls))  # type: ignore[arg-type]
    return await Database.connect(trusting, min_size=1, max_size=2, timeout=10)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
async def test_it_is_trusted_by_its_ca(server: tuple[PostgresAddress, Certificates], mode: str, host: str) -> None:
    address, certificates = server
    db = await connect(replace(address, host=host), mode=mode, root_cert=certificates.ca)
    row = await db.fetchrow("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    await db.close()
    assert row is not None
    assert row["ssl"]


@pytest.mark.parametrize("mode", ["prefer", "require", "verify-full"])
async def test_the_schema_is_made_over_the_same_tls(server: tuple[PostgresAddress, Certificates], mode: str) -> None:
    address, certificates = server
    tls = PostgresTls(mode, certificates.ca if mode.startswith("verify") else None)
    secured = replace(address, tls=tls)
    db = await Database.connect(secured, min_size=1, max_size=2, timeout=10)
    await bring_up_to_date(db, secured)
    await asyncio.to_thread(migrate, secured)  # What is up to date would not be looked at.
    row = await db.fetchrow(SQL["schema_revision"])
    await db.close()
    assert row is not None
    assert row["revision"] == newest_revision()


async def test_a_role_with_a_certificate_needs_no_password(server: tuple[PostgresAddress, Certificates]) -> None:
    address, certificates = server
    db = await connect(address, mode="require")
    await db.execute("CREATE ROLE certified LOGIN SUPERUSER")
    await db.close()
    certified = replace(
        address,
        user="certified",
        password=None,
        tls=PostgresTls("verify-full", certificates.ca, certificates.client, certificates.client_key),
    )
    db = await Database.connect(certified, min_size=1, max_size=2, timeout=10)
    await db.close()
    await asyncio.to_thread(migrate, certified)
    with pytest.raises(StartupError, match="requires a client certificate of role certified"):
        await connect(replace(address, user="certified"), mode="require")


async def refused(address: PostgresAddress, **tls: object) -> str:
    with pytest.raises(StartupError) as caught:
        await connect(address, **tls)
    line = str(caught.value)
    assert "\n" not in line
    assert PASSWORD not in line
    return line


async def test_a_wrong_ca_is_refused_in_one_line(server: tuple[PostgresAddress, Certificates]) -> None:
    address, certificates = server
    for mode in ("require", "verify-ca", "verify-full"):
        line = await refused(address, mode=mode, root_cert=certificates.other_ca)
        assert "cannot be trusted (its certificate is not of that CA)" in line
        assert "POSTGRES_SSLROOTCERT" in line


async def test_a_certificate_of_another_host_is_refused(
    server: tuple[PostgresAddress, Certificates], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, certificates = server
    loop = asyncio.get_running_loop()
    resolve = loop.getaddrinfo
    monkeypatch.setattr(loop, "getaddrinfo", lambda _, *rest, **more: resolve("127.0.0.1", *rest, **more))
    elsewhere = replace(address, host="db.example")
    assert "its certificate is of another host" in await refused(
        elsewhere, mode="verify-full", root_cert=certificates.ca
    )
    db = await connect(elsewhere, mode="verify-ca", root_cert=certificates.ca)
    await db.close()


async def test_a_wrong_password_is_told(server: tuple[PostgresAddress, Certificates]) -> None:
    line = await refused(replace(server[0], password=SecretStr("wrong")), mode="require")
    assert "refused the password of role postgres" in line


async def test_without_tls_it_is_told_that_tls_is_wanted(server: tuple[PostgresAddress, Certificates]) -> None:
    assert "only over TLS: set POSTGRES_SSLMODE" in await refused(server[0], mode="disable")


async def test_a_key_of_another_certificate_is_named(server: tuple[PostgresAddress, Certificates]) -> None:
    address, certificates = server
    line = await refused(address, mode="require", cert=certificates.client, key=certificates.server_key)
    assert "key and certificate do not belong together" in line
    line = await refused(address, mode="verify-ca", root_cert=certificates.client_key)
    assert "POSTGRES_SSLROOTCERT" in line


async def test_a_server_without_tls_is_told(postgres_server: PostgresAddress, tmp_path: Path) -> None:
    from tests.milvus_server import free_ports
    from tests.outages.proxy import Proxy

    (port,) = free_ports(1)
    proxy = Proxy(port, Path(postgres_server.host) / f".s.PGSQL.{postgres_server.port}")
    await proxy.start()
    try:
        plain = replace(postgres_server, host="127.0.0.1", port=port)
        assert "offers no TLS: POSTGRES_SSLMODE=require" in await refused(plain, mode="require")
        db = await connect(plain, mode="prefer")
        await db.close()
    finally:
        await proxy.stop()
