"""What the confidence of results is computed from."""

from migrations.sql_file import run_sql_file

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    run_sql_file("0015_confidence.sql")
