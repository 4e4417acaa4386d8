"""Which bots' vectors are being made again, and how far that is."""

from migrations.sql_file import run_sql_file

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    run_sql_file("0008_index_rebuilds.sql")
