"""Addresses and TLS files of PostgreSQL and Milvus."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr


@dataclass(frozen=True, slots=True)
class PostgresTls:
    """TLS of PostgreSQL connections: libpq's sslmode, sslrootcert, sslcert and sslkey."""

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
    """``host``: a host name, an IP address, or the directory of a Unix socket."""

    host: str
    port: int
    user: str
    database: str
    password: SecretStr | None = None
    tls: PostgresTls = PostgresTls()


@dataclass(frozen=True, slots=True)
class MilvusTls:
    """PEM files for a Milvus at https://. Without ``ca``, gRPC uses its own list of public CAs."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def options(self) -> dict[str, Any]:
        """Options for pymilvus's clients (3.0.2). The CA's option has another name if there is a client certificate."""
        if self.ca is None:
            return {}
        if self.cert is None or self.key is None:
            return {"server_pem_path": str(self.ca)}
        return {
            "ca_pem_path": str(self.ca),
            "client_pem_path": str(self.cert),
            "client_key_path": str(self.key),
        }
