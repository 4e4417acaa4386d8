"""Names in NFC, and which bots' documents are."""

from migrations.sql_file import run_sql_file

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_sql_file("0002_unicode.sql")
