"""Certificates of private CAs, for tests of TLS."""

import os
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Certificates:
    """PEM files: a CA, a server's certificate for 127.0.0.1 and localhost, a client's, and a CA that signed neither."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path
    other_ca: Path


def make_certificates(folder: Path, *, client: str = "postgres", owner: int | None = None) -> Certificates:
    """``client``: the common name of the client's certificate. ``owner``: user id that shall read the server's key."""
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1", "localhost")
    user = authority.issue_cert(common_name=client)
    names = ("ca", "server", "server.key", "client", "client.key", "other_ca")
    made = Certificates(*(folder / (name if name.endswith(".key") else f"{name}.pem") for name in names))
    authority.cert_pem.write_to_path(made.ca)
    trustme.CA().cert_pem.write_to_path(made.other_ca)
    for issued, chain, key in ((server, made.server, made.server_key), (user, made.client, made.client_key)):
        chain.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        key.chmod(0o600)
    if owner is not None:
        os.chown(made.server_key, owner, -1)
    return made
