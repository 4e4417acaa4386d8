"""Jobs of the API, and keys of operators."""

from migrations.sql_file import run_sql_file

revision = "0025"
down_revision = "0022"


def upgrade() -> None:
    run_sql_file("0025_jobs.sql")
