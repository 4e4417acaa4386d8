"""The first schema: bots, partitioned documents and chunks, sagas, vector_gc."""

from migrations.sql_file import run_sql_file

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_sql_file("0001_initial.sql")
