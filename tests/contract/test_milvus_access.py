"""A Milvus that wants a user and TLS: what lets this server in, and what it is told otherwise."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from app.core.stores.address import MilvusTls
from app.core.stores.milvus.index import MilvusIndex
from app.core.stores.milvus.refusal import PRIVILEGES, RELEASE
from app.utils.errors import StartupError
from tests.guarded_milvus import PASSWORD, ROOT, GuardedMilvus, guarded_milvus
from tests.milvus_index import connect_index

DATABASE = "chatty"


class Guarded(GuardedMilvus):
    async def connect(self, token: str = ROOT, uri: str = "", **options: object) -> MilvusIndex:
        tls = options.pop("tls", MilvusTls(self.certificates.ca))
        return await connect_index(uri or self.server.uri, token, tls=tls, timeout=5, wait=6, **options)  # type: ignore[arg-type]

    async def refusal(self, **options: object) -> str:
        with pytest.raises(StartupError) as caught:
            await self.connect(**options)  # type: ignore[arg-type]
        line = str(caught.value)
        assert "\n" not in line
        assert PASSWORD not in line
        return line


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded_milvus(tmp_path_factory.mktemp("guarded")) as running:
        running.admin.create_database(DATABASE)
        yield Guarded(running.server, running.certificates, running.admin)


async def write_and_read(index: MilvusIndex, collection: str) -> set[int]:
    await index.create(collection, 4)
    keys = np.array([7], np.int64)
    await index.upsert(collection, keys, keys, np.ones((1, 4), np.float32))
    return await index.present(collection, [(0, 65536)])


async def test_a_user_with_these_privileges_can_do_all(guarded: Guarded) -> None:
    token = await asyncio.to_thread(guarded.make_user, "chatty", *(name for name, _, _ in PRIVILEGES))
    index = await guarded.connect(token)
    assert await write_and_read(index, "of_user") == {7}
    await index.delete("of_user", [7])
    assert [len(keys) async for keys in index.scan("of_user")] == []
    await index.drop("of_user")
    assert "of_user" not in await index.collections()
    await index.close()


async def test_each_privilege_that_is_missing_is_named(guarded: Guarded) -> None:
    token = await asyncio.to_thread(guarded.make_user, "reader", "Search", "Query", "Load")
    line = await guarded.refusal(token=token)
    assert "grant its role CreateCollection, DropCollection, CreateIndex, Insert, Upsert, Delete." in line


async def test_only_a_server_that_releases_collections_needs_the_right_to(guarded: Guarded) -> None:
    names = [name for name, _, _ in PRIVILEGES]
    token = await asyncio.to_thread(guarded.make_user, "keeper", *names)
    assert "grant its role Release." in await guarded.refusal(token=token, releases=True)
    token = await asyncio.to_thread(guarded.make_user, "releaser", *names, RELEASE[0])
    index = await guarded.connect(token, releases=True)
    await index.create("released", 4, load=False)
    await index.load("released")
    await index.release("released")
    assert "released" not in await index.loaded()
    await index.drop("released")
    await index.close()


async def test_a_wrong_token_is_told(guarded: Guarded) -> None:
    for token in (f"root:{PASSWORD}", f"nobody:{PASSWORD}", PASSWORD, ""):
        assert "refused MILVUS_TOKEN" in await guarded.refusal(token=token)


async def test_a_token_may_stand_in_the_uri_and_is_not_told(guarded: Guarded) -> None:
    uri = guarded.server.uri.replace("https://", f"https://{ROOT}@")
    index = await guarded.connect("", uri)
    assert await index.collections() is not None
    await index.close()
    line = await guarded.refusal(token="", uri=uri.replace(ROOT, f"root:{PASSWORD[:7]}"))
    assert line.startswith(f"Milvus at {guarded.server.uri} refused")


async def test_databases_are_apart(guarded: Guarded) -> None:
    ours = await guarded.connect(database=DATABASE)
    default = await guarded.connect()
    assert await write_and_read(ours, "same_name") == {7}
    assert "same_name" in await ours.collections()
    assert "same_name" not in await default.collections()
    await ours.drop("same_name")
    await ours.close()
    await default.close()


async def test_a_database_that_is_missing_is_told(guarded: Guarded) -> None:
    assert "has no database elsewhere: create it" in await guarded.refusal(database="elsewhere")


async def test_a_wrong_ca_is_refused_in_one_line(guarded: Guarded) -> None:
    for tls in (MilvusTls(guarded.certificates.other_ca), MilvusTls()):
        assert "its certificate is not of that CA" in await guarded.refusal(tls=tls)


async def test_a_client_certificate_goes_along(guarded: Guarded, tmp_path: Path) -> None:
    made = guarded.certificates
    index = await guarded.connect(tls=MilvusTls(made.ca, made.client, made.client_key))
    await index.ping()
    await index.close()
