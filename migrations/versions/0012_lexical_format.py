"""How the words of a bot's collection are made."""

from migrations.sql_file import run_sql_file

revision = "0012"
down_revision = "0009"


def upgrade() -> None:
    run_sql_file("0012_lexical_format.sql")
