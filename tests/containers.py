"""The servers of docker-compose.yml in containers, if a Docker daemon answers."""

import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

import docker
from docker.errors import DockerException
from pydantic import SecretStr
from testcontainers.community.milvus import MilvusContainer
from testcontainers.community.postgres import PostgresContainer

from app.core.stores.address import PostgresAddress

COMPOSE = Path(__file__).resolve().parents[1] / "docker-compose.yml"


@cache
def docker_answers() -> bool:
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if host.startswith("unix://") and not Path(host.removeprefix("unix://")).exists():
        return False  # The client would leak a socket when it finds that out.
    try:
        with closing(docker.from_env(timeout=2)) as client:
            return bool(client.ping())
    except DockerException:
        return False


def image(service: str) -> str:
    """The image that docker-compose.yml names for ``service``."""
    found = re.search(rf"^  {service}:\n(?:    .*\n)*?    image: (\S+)$", COMPOSE.read_text(), re.MULTILINE)
    assert found, f"docker-compose.yml names no image for {service}"
    return found[1]


@contextmanager
def postgres_container() -> Iterator[PostgresAddress]:
    with PostgresContainer(image("postgres"), username="postgres", password="postgres", dbname="postgres") as server:
        port = int(server.get_exposed_port(server.port))
        yield PostgresAddress(server.get_container_host_ip(), port, "postgres", "postgres", SecretStr("postgres"))


@contextmanager
def milvus_container() -> Iterator[str]:
    """The URI of a standalone Milvus with its own etcd and local storage."""
    server = MilvusContainer(image("milvus")).with_env("QUERYNODE_SEGCORE_INTERIMINDEX_ENABLEINDEX", "false")
    with server.with_env("DEPLOY_MODE", "STANDALONE") as running:
        yield running.get_connection_url()
