"""A PostgreSQL that cannot serve is told in one sentence, at the first attempt."""

from dataclasses import replace

import pytest

from app.core.stores.address import PostgresAddress
from app.core.stores.postgres.database import Database
from app.utils.errors import DatabaseUnavailable, StartupError
from tests.conftest import connect_admin


async def connect(address: PostgresAddress) -> Database:
    return await Database.connect(address, min_size=0, max_size=1, timeout=5)


@pytest.mark.parametrize("encoding", ["EUC_KR", "SQL_ASCII", "LATIN1"])
async def test_a_database_that_cannot_hold_every_text_is_refused(
    postgres_server: PostgresAddress, encoding: str
) -> None:
    admin = await connect_admin(postgres_server)
    name = f"in_{encoding.lower()}"
    await admin.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        with pytest.raises(StartupError, match=f"^Database {name} at .* is in {encoding}, .* UTF8"):
            await connect(replace(postgres_server, database=name))
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


async def test_a_database_that_is_missing_is_told(postgres_server: PostgresAddress) -> None:
    with pytest.raises(StartupError, match=r"has no database nowhere: create it .*createdb -E UTF8"):
        await connect(replace(postgres_server, database="nowhere"))


async def test_a_role_that_is_missing_is_told(postgres_server: PostgresAddress) -> None:
    with pytest.raises(StartupError, match="does not accept role nobody in database postgres from this machine"):
        await connect(replace(postgres_server, user="nobody"))


async def test_a_role_that_may_not_connect_is_told(postgres_server: PostgresAddress) -> None:
    admin = await connect_admin(postgres_server)
    for statement in ("ROLE outsider LOGIN", "DATABASE closed"):
        await admin.execute(f"CREATE {statement}")
    await admin.execute("REVOKE CONNECT ON DATABASE closed FROM public")
    try:
        with pytest.raises(StartupError, match="grant CONNECT"):
            await connect(replace(postgres_server, user="outsider", database="closed"))
    finally:
        await admin.execute("DROP DATABASE closed")
        await admin.execute("DROP ROLE outsider")
        await admin.close()


async def test_one_that_is_away_may_come_back(postgres_server: PostgresAddress) -> None:
    with pytest.raises(DatabaseUnavailable):
        await connect(replace(postgres_server, host="127.0.0.1", port=1))
