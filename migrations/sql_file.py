"""Lets a revision be a plain SQL file."""

from pathlib import Path

from alembic import context, op


def run_sql_file(name: str) -> None:
    """Runs ``migrations/sql/<name>`` as it stands, or prints it when Alembic only writes SQL."""
    sql = (Path(__file__).parent / "sql" / name).read_text(encoding="utf-8")
    if context.is_offline_mode():
        op.get_context().impl.static_output(sql)
    else:
        # Without parameters psycopg sends the text as one simple query, which may hold many statements.
        op.get_bind().execution_options(no_parameters=True).exec_driver_sql(sql)
