"""How Alembic runs the revisions: called by ``app.core.stores.postgres.migrations`` alone."""

from alembic import context

config = context.config


def run_offline() -> None:
    context.configure(dialect_name="postgresql", output_buffer=config.output_buffer)
    with context.begin_transaction():
        context.run_migrations()


def run_online() -> None:
    connection = config.attributes["connection"]
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    run_offline()
else:
    run_online()
