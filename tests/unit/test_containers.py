"""The images that tests run in containers are those of docker-compose.yml."""

import pytest

from tests.containers import image


@pytest.mark.parametrize(("service", "start"), [("postgres", "postgres:18."), ("milvus", "milvusdb/milvus:v2.6.")])
def test_the_image_is_read_from_the_compose_file(service: str, start: str) -> None:
    assert image(service).startswith(start)


def test_an_unknown_service_is_an_error() -> None:
    with pytest.raises(AssertionError, match="names no image for mysql"):
        image("mysql")
