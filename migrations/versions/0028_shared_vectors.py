"""Vectors of the last seconds for other processes."""

from migrations.sql_file import run_sql_file

revision = "0028"
down_revision = "0027"


def upgrade() -> None:
    run_sql_file("0028_shared_vectors.sql")
