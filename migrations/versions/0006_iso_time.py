"""Times in metadata can be compared as times."""

from migrations.sql_file import run_sql_file

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    run_sql_file("0006_iso_time.sql")
