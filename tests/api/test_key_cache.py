"""Keys that were looked up are kept for a while: what that saves, and what it must never keep."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from app.core.access import api_keys as keys_module
from app.core.access.api_keys import ApiKeyAuthenticator
from app.core.stores.postgres.api_keys import KeyStore
from app.core.stores.postgres.database import Database
from app.schemas.operation_rows import StoredApiKey
from app.utils.errors import DatabaseUnavailable, Unauthorized
from tests.api.keys import make_key
from tests.conftest import until


@pytest.fixture
async def key(db: Database) -> str:
    return await make_key(db, "mine")


class CountingStore(KeyStore):
    """Remembers what was looked for."""

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        self.asked: list[str] = []
        self.running = self.most = 0

    async def find(self, prefix: str) -> StoredApiKey | None:
        self.asked.append(prefix)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            return await super().find(prefix)
        finally:
            self.running -= 1


async def test_a_key_is_looked_up_once_in_a_while(db: Database, key: str) -> None:
    store = CountingStore(db)
    keys = ApiKeyAuthenticator(store, 300.0)
    callers = await asyncio.gather(*(keys.caller(key) for _ in range(50)))
    assert {caller.account for caller in callers} == {"mine"}
    asked = len(store.asked)
    assert asked <= keys_module.LOOKUPS
    await keys.caller(key)
    wrong = key[:-1] + ("A" if key[-1] != "A" else "B")
    with pytest.raises(Unauthorized):
        await keys.caller(wrong)
    assert len(store.asked) == asked


async def is_refused(keys: ApiKeyAuthenticator, key: str) -> bool:
    try:
        await keys.caller(key)
    except Unauthorized:
        return True
    return False


async def test_a_revoked_key_stops_when_the_cache_is_over(db: Database, key: str) -> None:
    store = CountingStore(db)
    keys = ApiKeyAuthenticator(store, 0.2)
    await keys.caller(key)
    await store.revoke(key[:11])
    await until(lambda: is_refused(keys, key))
    with pytest.raises(Unauthorized):
        await keys.caller(key)
    assert keys._known == {}


async def test_a_cached_key_expires_in_time(db: Database) -> None:
    keys = ApiKeyAuthenticator(CountingStore(db), 300.0)
    key = await make_key(db, "mine", expires_in=timedelta(seconds=0.3))
    await keys.caller(key)
    await until(lambda: is_refused(keys, key))


async def test_wrong_keys_fill_neither_memory_nor_connections(db: Database, key: str) -> None:
    store = CountingStore(db)
    keys = ApiKeyAuthenticator(store, 300.0)
    wrong = [f"cm_{number:08d}_{'A' * 43}" for number in range(200)]
    outcomes = await asyncio.gather(*(keys.caller(one) for one in wrong), return_exceptions=True)
    assert all(isinstance(outcome, Unauthorized) for outcome in outcomes)
    assert store.most <= keys_module.LOOKUPS
    assert keys._known == {}


async def test_the_cache_is_bounded(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "CACHED_KEYS", 3)
    keys = ApiKeyAuthenticator(CountingStore(db), 300.0)
    made = [await make_key(db, f"account {number}") for number in range(6)]
    for number, key in enumerate(made):
        assert (await keys.caller(key)).account == f"account {number}"
    assert list(keys._known) == [key[:11] for key in made[-3:]]


async def test_a_lookup_that_hangs_is_given_up(db: Database, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(KeyStore):
        async def find(self, prefix: str) -> StoredApiKey | None:
            await asyncio.Event().wait()
            return None

    monkeypatch.setattr(keys_module, "LOOKUP_SECONDS", 0.05)
    keys = ApiKeyAuthenticator(Hanging(db), 300.0)
    outcomes = await asyncio.gather(*(keys.caller(key) for _ in range(20)), return_exceptions=True)
    assert all(isinstance(outcome, DatabaseUnavailable) for outcome in outcomes)


async def test_a_key_whose_scopes_are_of_a_later_version_is_not_valid(
    db: Database, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers of two versions may run beside each other."""
    store = KeyStore(db)
    stored = await store.find(key[:11])
    assert stored is not None

    async def find(prefix: str) -> StoredApiKey:
        return replace(stored, scopes=["auditor"])

    monkeypatch.setattr(store, "find", find)
    assert await is_refused(ApiKeyAuthenticator(store, 300.0), key)
