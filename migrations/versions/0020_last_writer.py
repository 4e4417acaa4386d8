"""Which process wrote to a bot last."""

from migrations.sql_file import run_sql_file

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    run_sql_file("0020_last_writer.sql")
