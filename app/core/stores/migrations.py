"""Brings the database to the newest schema. Alembic keeps the count; the revisions are plain SQL."""

import io
import threading
from pathlib import Path

import sqlalchemy
from alembic import command
from alembic.config import Config
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from app.core.stores.address import PostgresAddress
from app.utils.errors import DatabaseUnavailable

ROOT = Path(__file__).resolve().parents[3]

# One number for every process that may migrate this database: the second one waits, then finds nothing to do.
MIGRATION_LOCK = 0x63686174
# Alembic's ``context`` and ``op`` are process-wide.
_alembic = threading.Lock()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    config.set_main_option("prepend_sys_path", str(ROOT))
    config.set_main_option("path_separator", "os")
    return config


def migrate(address: PostgresAddress) -> None:
    """Applies what is missing, in one transaction. Blocks; safe when several processes do it at once.

    Raises DatabaseUnavailable when the database does not answer.
    """
    url = sqlalchemy.URL.create(
        "postgresql+psycopg",
        username=address.user,
        password=address.password.get_secret_value() if address.password else None,
        database=address.database,
        query={"host": address.host, "port": str(address.port)},
    )
    engine = sqlalchemy.create_engine(url, poolclass=NullPool)
    config = _config()
    try:
        with _alembic, engine.begin() as connection:
            connection.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except OperationalError as exc:
        raise DatabaseUnavailable("PostgreSQL did not answer while the schema was brought up to date.") from exc
    finally:
        engine.dispose()


def schema_sql() -> str:
    """The whole schema as one script for psql, Alembic's mark included: the text of init_chatty.sql."""
    buffer = io.StringIO()
    config = _config()
    config.output_buffer = buffer
    with _alembic:
        command.upgrade(config, "head", sql=True)
    return buffer.getvalue()
