"""A Milvus server that requires a user and TLS, with a private CA."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pymilvus import MilvusClient

from tests.certificates import Certificates, make_certificates
from tests.milvus_server import MilvusServer

ROOT = "root:Milvus"
PASSWORD = "hunter2#secret"
GLOBAL = frozenset({"CreateCollection", "DropCollection", "DescribeCollection", "ShowCollections"})


@dataclass
class GuardedMilvus:
    server: MilvusServer
    certificates: Certificates
    admin: MilvusClient

    def make_user(self, name: str, *privileges: str) -> str:
        """Creates the user with a role that has these privileges. Returns the token."""
        self.admin.create_user(name, PASSWORD)
        self.admin.create_role(f"role_{name}")
        self.admin.grant_role(name, f"role_{name}")
        for privilege in privileges:
            kind = "Global" if privilege in GLOBAL else "Collection"
            self.admin.grant_privilege(f"role_{name}", kind, privilege, "*")
        return f"{name}:{PASSWORD}"


@contextmanager
def guarded_milvus(folder: Path) -> Iterator[GuardedMilvus]:
    certificates = make_certificates(folder)
    settings = {
        "common.security.authorizationEnabled": True,
        "common.security.tlsMode": 1,
        "tls.serverPemPath": str(certificates.server),
        "tls.serverKeyPath": str(certificates.server_key),
        "tls.caPemPath": str(certificates.ca),
        "proxy.timeTickInterval": 50,
    }
    options = {"token": ROOT, "server_pem_path": str(certificates.ca)}
    with MilvusServer(folder / "milvus", settings, scheme="https", client_options=options) as server:
        admin = MilvusClient(server.uri, timeout=10, dedicated=True, **options)
        yield GuardedMilvus(server, certificates, admin)
        admin.close()
