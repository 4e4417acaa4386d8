"""Where a PostgreSQL is."""

from dataclasses import dataclass

from pydantic import SecretStr


@dataclass(frozen=True, slots=True)
class PostgresAddress:
    """``host`` is a name, an address or the directory of a Unix socket."""

    host: str
    port: int
    user: str
    database: str
    password: SecretStr | None = None
