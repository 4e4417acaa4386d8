"""Brings the database to the newest schema. Alembic tracks the revisions, which are plain SQL."""

import asyncio
import io
import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg

from app.core.stores.address import PostgresAddress
from app.core.stores.postgres.database import Database
from app.schemas.queries import SQL
from app.utils.errors import DatabaseRightsMissing, DatabaseUnavailable, StartupError

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[4]

# Every process that may migrate this database takes this lock: the second one waits, then finds nothing to do.
MIGRATION_LOCK = 0x63686174
LOCK_TIMEOUT: Final = "500ms"
"""Shorter than PostgreSQL's deadlock_timeout: so it is the migration that gives way, and not a server's transaction."""
PAUSE_SECONDS: Final = 1.0
# Alembic's ``context`` and ``op`` are global to the process.
_alembic = threading.Lock()


async def bring_up_to_date(db: Database, address: PostgresAddress) -> None:
    """Applies missing revisions. If none is missing, Alembic is not imported.

    Raises DatabaseUnavailable, and StartupError when the role may not change the schema.
    """
    try:
        row = await db.fetchrow(SQL["schema_revision"])
    except asyncpg.UndefinedTableError:
        row = None
    except DatabaseRightsMissing:
        return  # ``rights.check_rights`` reports it.
    if row is None or row["revision"] != newest_revision():
        await asyncio.to_thread(migrate, address)


def newest_revision() -> str:
    """From the names of the files, which begin with it."""
    return max(file.name for file in (ROOT / "migrations" / "versions").glob("[0-9]*.py")).partition("_")[0]


def _config() -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    config.set_main_option("prepend_sys_path", str(ROOT))
    config.set_main_option("path_separator", "os")
    return config


def migrate(address: PostgresAddress, revision: str = "head") -> None:
    """Applies missing revisions in one transaction. Blocks the thread; several processes may do it at the same time.

    Servers of an earlier version may be at work. A statement that waits for a lock on a table, say for a dump that
    reads it, holds up all others on that table. So it waits for LOCK_TIMEOUT; then all is undone and begun again later.

    Raises DatabaseUnavailable when the database does not answer, and StartupError when the role may not change it.
    """
    import sqlalchemy
    from psycopg.errors import InsufficientPrivilege, LockNotAvailable
    from sqlalchemy.exc import OperationalError, ProgrammingError
    from sqlalchemy.pool import NullPool

    url = sqlalchemy.URL.create(
        "postgresql+psycopg",
        username=address.user,
        password=address.password.get_secret_value() if address.password else None,
        database=address.database,
        query={"host": address.host, "port": str(address.port), **address.tls.parameters()},
    )
    # Behind a pooler, a prepared statement may be another client's.
    engine = sqlalchemy.create_engine(url, poolclass=NullPool, connect_args={"prepare_threshold": None})
    try:
        while True:
            try:
                with _alembic, engine.begin() as connection:
                    _upgrade(connection, revision)
                return
            except OperationalError as exc:
                if not isinstance(exc.orig, LockNotAvailable):
                    raise
            log.warning("the schema is brought up to date when another transaction has released its tables")
            time.sleep(PAUSE_SECONDS)
    except OperationalError as exc:
        raise DatabaseUnavailable("PostgreSQL did not answer while the schema was brought up to date.") from exc
    except ProgrammingError as exc:
        if isinstance(exc.orig, InsufficientPrivilege):
            raise StartupError(
                f"Role {address.user} may not bring the schema of database {address.database} to {newest_revision()}: "
                "run python -m app.cli migrate as the tables' owner. If it was, the role needs USAGE on their schema."
            ) from exc
        raise
    finally:
        engine.dispose()


def _upgrade(connection: "Connection", revision: str) -> None:
    import sqlalchemy
    from alembic import command

    def limit(name: str, value: str) -> None:
        connection.execute(sqlalchemy.select(sqlalchemy.func.set_config(name, value, True)))

    # Without a limit of time: the role may have limits for the server's own statements.
    limit("statement_timeout", "0")
    limit("lock_timeout", "0")
    connection.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
    limit("lock_timeout", LOCK_TIMEOUT)
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def schema_sql() -> str:
    """The whole schema as one script for psql, including Alembic's revision: the text of init_chatty.sql."""
    from alembic import command

    buffer = io.StringIO()
    config = _config()
    config.output_buffer = buffer
    with _alembic:
        command.upgrade(config, "head", sql=True)
    return buffer.getvalue()
