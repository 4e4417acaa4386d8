"""Where a PostgreSQL or a Milvus is, and how to reach it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr


@dataclass(frozen=True, slots=True)
class PostgresTls:
    """TLS of a PostgreSQL connection. ``mode`` and the files mean what libpq's sslmode and its companions mean."""

    mode: str = "prefer"
    root_cert: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def parameters(self) -> dict[str, str]:
        """Connection parameters by libpq's names, which asyncpg and psycopg both read."""
        files = {"sslrootcert": self.root_cert, "sslcert": self.cert, "sslkey": self.key}
        return {"sslmode": self.mode, **{name: str(file) for name, file in files.items() if file is not None}}


@dataclass(frozen=True, slots=True)
class PostgresAddress:
    """``host`` is a name, an address or the directory of a Unix socket."""

    host: str
    port: int
    user: str
    database: str
    password: SecretStr | None = None
    tls: PostgresTls = PostgresTls()


@dataclass(frozen=True, slots=True)
class MilvusTls:
    """Files in PEM form for a Milvus at https://. Without ``ca``, gRPC's own list of public CAs counts."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def options(self) -> dict[str, Any]:
        """Options of pymilvus's clients (3.0.2), which name the CA by one option alone and by another beside a client
        certificate."""
        if self.ca is None:
            return {}
        if self.cert is None or self.key is None:
            return {"server_pem_path": str(self.ca)}
        return {
            "ca_pem_path": str(self.ca),
            "client_pem_path": str(self.cert),
            "client_key_path": str(self.key),
        }
