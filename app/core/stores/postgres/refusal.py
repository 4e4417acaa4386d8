"""Why PostgreSQL refuses this server: one sentence for each wrong set-up that waiting does not fix."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from app.core.stores.address import PostgresAddress
from app.utils.errors import DatabaseRightsMissing, DatabaseUnavailable, StartupError


@contextmanager
def explained(address: PostgresAddress) -> Iterator[None]:
    """Raises StartupError instead of an error for which there is a sentence here."""
    try:
        yield
    except (DatabaseUnavailable, DatabaseRightsMissing) as exc:
        if reason := refusal(exc.__cause__, address):
            raise StartupError(reason) from exc
        raise


def refusal(error: BaseException | None, address: PostgresAddress) -> str | None:
    """The sentence for ``error``, without the driver's own text; None for an error that may be temporary."""
    server = f"PostgreSQL at {address.host}:{address.port}"
    match error:
        case asyncpg.InvalidPasswordError():
            return f"{server} refused the password of role {address.user}: check POSTGRES_USER and POSTGRES_PASSWORD."
        case asyncpg.InvalidCatalogNameError():
            return (
                f"{server} has no database {address.database}: create it (createdb -E UTF8 -T template0 "
                f"{address.database}) or change POSTGRES_DB_NAME."
            )
        case asyncpg.InvalidAuthorizationSpecificationError():
            return _not_let_in(str(error), server, address)
        case asyncpg.InsufficientPrivilegeError():
            return f"{server} does not let role {address.user} connect to database {address.database}: grant CONNECT."
        case ssl.SSLCertVerificationError():
            return (
                f"{server} cannot be trusted ({_distrust(error.verify_code)}): check POSTGRES_SSLROOTCERT and "
                "POSTGRES_HOST."
            )
        case ssl.SSLError() if error.library in ("PEM", "X509") or error.reason == "KEY_VALUES_MISMATCH":
            return (
                f"POSTGRES_SSLROOTCERT, POSTGRES_SSLCERT or POSTGRES_SSLKEY is not a valid PEM file, or key and "
                f"certificate do not belong together ({error.reason})."
            )
        case ssl.SSLError() if "_ALERT_" in (error.reason or ""):
            return f"{server} ended the TLS handshake ({error.reason}): check POSTGRES_SSLCERT and POSTGRES_SSLKEY."
        case ConnectionError() if "rejected SSL upgrade" in str(error):
            return f"{server} offers no TLS: POSTGRES_SSLMODE={address.tls.mode} cannot work with it."
    return None


def _distrust(code: int) -> str:
    """The meaning of a verify_code of OpenSSL (X509_V_ERR_...)."""
    reasons = {9: "its certificate is not valid yet", 10: "its certificate has expired"}
    reasons |= dict.fromkeys((62, 64), "its certificate is of another host")
    return reasons.get(code, "its certificate is not of that CA")


def _not_let_in(message: str, server: str, address: PostgresAddress) -> str:
    if "client certificate" in message:
        return (
            f"{server} requires a client certificate of role {address.user}: set POSTGRES_SSLCERT and POSTGRES_SSLKEY."
        )
    if "no encryption" in message:
        return f"{server} accepts role {address.user} only over TLS: set POSTGRES_SSLMODE to require or verify-full."
    return (
        f"{server} does not accept role {address.user} in database {address.database} from this machine: check "
        "POSTGRES_USER, POSTGRES_DB_NAME and the server's pg_hba.conf."
    )


def silence_of(error: BaseException | None) -> str:
    """Why there was no answer, in a few words for a log."""
    match error:
        case socket.gaierror():
            return "the host name is unknown"
        case ConnectionRefusedError():
            return "nothing listens there"
        case TimeoutError():
            return "no answer in time"
        case asyncpg.PostgresError():
            return f"SQLSTATE {error.sqlstate}"
        case OSError(strerror=str(text)):
            return text
    return type(error).__name__


def wrong_encoding(encoding: str, address: PostgresAddress) -> str:
    return (
        f"Database {address.database} at {address.host}:{address.port} is in {encoding}, which cannot hold every text: "
        "make one in UTF8 (createdb -E UTF8 -T template0 NAME) and set POSTGRES_DB_NAME to it."
    )
