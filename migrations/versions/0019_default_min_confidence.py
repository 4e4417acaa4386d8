"""The least confidence of a bot's results."""

from migrations.sql_file import run_sql_file

revision = "0019"
down_revision = "0015"


def upgrade() -> None:
    run_sql_file("0019_default_min_confidence.sql")
