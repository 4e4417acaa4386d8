"""What is stored of each part of a bulk load."""

from migrations.sql_file import run_sql_file

revision = "0027"
down_revision = "0025"


def upgrade() -> None:
    run_sql_file("0027_stream_parts.sql")
