"""Roles: an owner, a server that is not, a registrar; what each may do, and what is said when it may not."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from app.config import Settings
from app.core.connect import Stores
from app.core.services import Services, build_services
from app.core.stores.address import PostgresAddress
from app.core.stores.postgres.database import Database
from app.core.stores.postgres.generations import GenerationStore
from app.core.stores.postgres.migrations import bring_up_to_date
from app.core.stores.postgres.rights import check_rights
from app.schemas.queries import SQL
from app.utils.errors import DatabaseRightsMissing, StartupError
from tests.conftest import BotClient, fresh_database, in_process, register, until
from tests.doubles.hash_embedder import HashEmbedder
from tests.doubles.memory_index import MemoryIndex
from tests.integration.conftest import assert_at_rest, findings
from tests.integration.test_schema import ROOT, run, session

ROLES = ROOT / "migrations" / "roles.sql"


@dataclass(frozen=True)
class Roles:
    """Addresses of one database for each role; roles belong to the whole server, so each test has its own."""

    admin: PostgresAddress
    owner: PostgresAddress
    server: PostgresAddress
    registrar: PostgresAddress

    @classmethod
    def of(cls, admin: PostgresAddress, mark: str) -> "Roles":
        return cls(admin, *(replace(admin, user=f"{name}_{mark}") for name in ("owner", "server", "registrar")))

    def make(self, database: PostgresAddress | None = None) -> None:
        names = {name: getattr(self, name).user for name in ("owner", "server", "registrar")}
        variables = [word for name, user in names.items() for word in ("-v", f"{name}={user}")]
        run("psql", database or self.admin, "-q", *variables, "-f", str(ROLES))


@pytest.fixture
def roles(address: PostgresAddress) -> Roles:
    made = Roles.of(address, uuid4().hex[:8])
    made.make()
    return made


@asynccontextmanager
async def connected(address: PostgresAddress) -> AsyncIterator[Database]:
    db = await Database.connect(address, min_size=1, max_size=8, timeout=10)
    try:
        yield db
    finally:
        await db.close()


@asynccontextmanager
async def served(settings: Settings, address: PostgresAddress, index: MemoryIndex) -> AsyncIterator[Services]:
    """Services as a server with this role would open them."""
    async with connected(address) as db:
        await bring_up_to_date(db, address)
        await check_rights(db, address.user)
        async with build_services(settings, Stores(db, index, timedelta(0)), HashEmbedder()) as services:
            yield services


async def found(services: Services) -> list[tuple[str, UUID | None]]:
    return [(finding.kind, finding.bot_id) for finding in await findings(services.verifier)]


async def test_the_server_s_role_owns_nothing_and_does_everything(
    roles: Roles, settings: Settings, index: MemoryIndex
) -> None:
    async with served(settings, roles.server, index) as services, in_process(services) as client:
        bot = await register(client)
        doc_id = await bot.insert("a", "b")
        changed = {"chat_bot_id": str(bot.bot_id), "metadata_updates": {"title": "new"}}
        assert len(await bot.search("a")) == 2
        assert (await client.patch(f"/data/document/{doc_id}/metadata", json=changed)).status_code == 200
        async with session(roles.admin) as admin:
            owners = await admin.fetch(
                "SELECT DISTINCT relowner::regrole::text AS owner, relnamespace::regnamespace::text AS home "
                "FROM pg_class WHERE relname LIKE 'document%' AND relkind IN ('r', 'p')"
            )
            assert [tuple(row) for row in owners] == [(roles.owner.user, "public")]
        assert (await client.delete(f"/collection/{bot.bot_id}")).status_code == 200
        async with connected(roles.admin) as db:
            await assert_at_rest(db, index)
            assert await db.fetch("SELECT FROM pg_tables WHERE tablename ~ '[0-9a-f]{32}'") == []


async def test_a_registrar_with_a_schema_of_its_own_makes_partitions_in_the_tables_schema(
    roles: Roles, settings: Settings, index: MemoryIndex
) -> None:
    async with session(roles.admin) as admin:
        await admin.execute(f"CREATE SCHEMA {roles.registrar.user} AUTHORIZATION {roles.registrar.user}")
    bot_id = uuid4()
    async with session(roles.registrar) as registrar:
        await registrar.execute('SET search_path = "$user", public')
        await registrar.execute(
            "INSERT INTO bot_registry (bot_id, bot_name, collection_name) VALUES ($1, 'b', 'c')", bot_id
        )
        for refused in (
            "SELECT drop_bot_partitions($1)",
            "SELECT make_bot_partitions($1)",
            "UPDATE bot_registry SET state = 'deleting' WHERE bot_id = $1",
            "SELECT FROM documents WHERE bot_id = $1",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await registrar.execute(refused, bot_id)
    async with served(settings, roles.server, index) as services, in_process(services) as client:
        bot = BotClient(client, bot_id)
        await bot.insert("a")
        assert [result["chunk_text"] for result in await bot.search("a")] == ["a"]
        assert await found(services) == []
    async with session(roles.admin) as admin:
        homes = "SELECT DISTINCT schemaname FROM pg_tables WHERE tablename LIKE 'document%'"
        assert [row["schemaname"] for row in await admin.fetch(homes)] == ["public"]


async def test_a_server_without_the_system_identifier_knows_its_database_by_name(roles: Roles) -> None:
    async with connected(roles.server) as db, session(roles.admin) as admin:
        known = (await GenerationStore(db).state()).database
        await admin.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        named = (await GenerationStore(db).state()).database
        assert known.endswith(f"/{named}")
        assert named == f"{roles.admin.database}/public"


async def test_partitions_of_a_bot_that_is_not_being_deleted_are_not_dropped(roles: Roles) -> None:
    bot_id = uuid4()
    async with session(roles.server) as server:
        with pytest.raises(asyncpg.NoDataFoundError):
            await server.execute("SELECT make_bot_partitions($1)", bot_id)
        await server.execute(
            "INSERT INTO bot_registry (bot_id, bot_name, collection_name) VALUES ($1, 'b', 'c')", bot_id
        )
        with pytest.raises(asyncpg.ObjectInUseError):
            await server.execute("SELECT drop_bot_partitions($1)", bot_id)
        await server.execute("UPDATE bot_registry SET state = 'deleting'")
        await server.execute("SELECT drop_bot_partitions($1)", bot_id)


# ------------------------------------------------------------------ rights that are missing


async def missing(conn: "asyncpg.Connection[asyncpg.Record]") -> list[str]:
    return [row["missing"] for row in await conn.fetch(SQL["missing_rights"])]


async def test_each_right_that_is_missing_is_named(roles: Roles) -> None:
    async with connected(roles.server) as db, session(roles.admin) as admin:
        await check_rights(db, roles.server.user)
        await admin.execute(f"REVOKE DELETE, UPDATE ON sagas FROM {roles.server.user}")
        await admin.execute(f"REVOKE ALL ON SEQUENCE generation_seq FROM {roles.server.user}")
        await admin.execute(f"REVOKE ALL ON FUNCTION drop_bot_partitions FROM {roles.server.user}")
        await admin.execute(f"REVOKE CREATE ON SCHEMA public FROM {roles.owner.user}")
        await admin.execute("ALTER TABLE documents OWNER TO postgres")
        with pytest.raises(StartupError, match=r"roles\.sql") as told:
            await check_rights(db, roles.server.user)
        assert str(told.value).partition("Missing: ")[2].partition(". The")[0].split(", ") == [
            "UPDATE on sagas",
            "DELETE on sagas",
            "SELECT on sequence generation_seq",
            "USAGE on sequence generation_seq",
            "UPDATE on sequence generation_seq",
            "EXECUTE on function drop_bot_partitions(uuid)",
            f"CREATE on schema public for role {roles.owner.user}",
            "which owns make_bot_partitions",
            f"ownership of documents for role {roles.owner.user}",
            "which owns make_bot_partitions",
            f"ownership of documents for role {roles.owner.user}",
            "which owns drop_bot_partitions",
        ]


async def test_the_rights_that_are_looked_at_are_those_that_the_statements_need(roles: Roles) -> None:
    """Enough, and none too many: without any of them some statement is refused."""
    role = f"bare_{uuid4().hex[:8]}"
    async with session(roles.admin) as admin:
        if int(await admin.fetchval("SHOW server_version_num")) < 160_000:
            pytest.skip("EXPLAIN (GENERIC_PLAN) came with PostgreSQL 16")
        await admin.execute(f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA public TO {role}")
        await admin.execute("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC")
        # Those that filters of documents from before NFC call: compiled, they stand in no block of queries.sql.
        await admin.execute(f"GRANT EXECUTE ON FUNCTION nfc_array, nfc_jsonb TO {role}")

        async def refused(names: list[str]) -> list[str]:
            names_refused = []
            await admin.execute(f"SET ROLE {role}")
            for name in names:
                try:
                    await admin.execute(f"EXPLAIN (GENERIC_PLAN) {SQL[name]}")
                except asyncpg.InsufficientPrivilegeError:
                    names_refused.append(name)
            await admin.execute("RESET ROLE")
            return names_refused

        await admin.execute(f"SET ROLE {role}")
        rights = await missing(admin)
        await admin.execute("RESET ROLE")
        assert len(rights) > 30
        for right in rights:
            await admin.execute(f"GRANT {right} TO {role}")
        assert await refused(list(SQL)) == []
        for right in rights:
            if right.startswith(("USAGE on sequence", "UPDATE on sequence")):
                continue  # nextval and setval look at them when they run.
            thing = re.split(r"[ (]", right.partition(" on ")[2].removeprefix("sequence ").removeprefix("function "))[0]
            await admin.execute(f"REVOKE {right} FROM {role}")
            if right != "INSERT on documents" and right != "INSERT on document_chunks":  # COPY, which is no block.
                assert await refused([name for name, sql in SQL.items() if thing in sql]), right
            await admin.execute(f"GRANT {right} TO {role}")


async def test_a_role_that_may_not_make_the_schema_is_told_so(roles: Roles, postgres_server: PostgresAddress) -> None:
    async with fresh_database(postgres_server, template=None) as empty:
        address = replace(empty, user=roles.registrar.user)
        async with connected(address) as db:
            with pytest.raises(StartupError, match=r"run python -m app.cli migrate as the tables' owner"):
                await bring_up_to_date(db, address)
    async with connected(roles.registrar) as db:  # It may not even read the revision.
        await bring_up_to_date(db, roles.registrar)
        with pytest.raises(StartupError, match=r"SELECT on alembic_version, .*DELETE on vector_gc"):
            await check_rights(db, roles.registrar.user)


async def test_a_bot_that_cannot_be_dropped_is_an_error_and_a_finding_and_goes_when_it_can(
    roles: Roles,
    settings: Settings,
    index: MemoryIndex,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = settings.model_copy(update={"saga_lease_seconds": 0.5})
    async with served(settings, roles.server, index) as services, in_process(services) as client:
        monkeypatch.setattr(logging.getLogger("app"), "propagate", True)
        bot = await register(client)
        await bot.insert("a")
        async with session(roles.admin) as admin:
            await admin.execute(f"ALTER TABLE documents_{bot.bot_id.hex} OWNER TO postgres")
            with caplog.at_level(logging.WARNING):
                answer = await client.delete(f"/collection/{bot.bot_id}")
                assert (answer.status_code, answer.json()["code"]) == (503, "database_rights_missing")
                assert "Retry-After" in answer.headers
                assert "documents_" not in answer.text

                async def recovery_says_so() -> bool:
                    return any(
                        "recovery is delayed: The bot is marked" in record.getMessage() for record in caplog.records
                    )

                await until(recovery_says_so)
            assert not [
                record for record in caplog.records if record.name == "app.core.write.recovery" and record.exc_info
            ]
            assert await found(services) == [("partition_foreign", None)]
            await admin.execute(f"ALTER TABLE documents_{bot.bot_id.hex} OWNER TO {roles.owner.user}")
        async with connected(roles.admin) as db:
            await assert_at_rest(db, index)
        assert await found(services) == []


async def test_a_right_that_is_taken_away_is_no_unforeseen_error(
    roles: Roles, settings: Settings, index: MemoryIndex
) -> None:
    async with connected(roles.server) as db, session(roles.admin) as admin:
        await admin.execute(f"REVOKE SELECT ON api_keys FROM {roles.server.user}")
        with pytest.raises(DatabaseRightsMissing):
            await db.fetch(SQL["any_api_key"])


# ------------------------------------------------------------------ dumps


@pytest.mark.parametrize("form", ["plain", "custom", "data-only"])
async def test_a_dump_is_restored_and_served_by_a_role_that_owns_nothing(
    roles: Roles, settings: Settings, index: MemoryIndex, postgres_server: PostgresAddress, tmp_path, form: str
) -> None:  # type: ignore[no-untyped-def]
    async with served(settings, roles.server, index) as services, in_process(services) as client:
        bots = [await register(client) for _ in range(2)]
        doc_ids = [await bot.insert(f"text {number}", "다른 글") for number, bot in enumerate(bots)]
    options = {"plain": [], "custom": ["-Fc"], "data-only": ["--data-only", "--exclude-table=alembic_version"]}[form]
    file = tmp_path / "dump"
    await asyncio.to_thread(run, "pg_dump", roles.admin, *options, "-f", str(file))
    async with fresh_database(postgres_server, None if form != "data-only" else "chat_memory_template") as fresh:
        if form == "data-only":
            await asyncio.to_thread(roles.make, fresh)
        program = (
            ["pg_restore", "-e", str(file)]
            if form == "custom"
            else ["psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(file)]
        )
        who = replace(fresh, user=roles.owner.user) if form == "data-only" else fresh
        await asyncio.to_thread(run, program[0], who, *program[1:])
        restored = replace(fresh, user=roles.server.user)
        async with connected(restored) as db:  # Under another name.
            assert (await Stores(db, index, timedelta(0)).generations().adopt()).bots == 0
        async with served(settings, restored, index) as services, in_process(services) as client:
            assert await found(services) == []
            for number, (bot, doc_id) in enumerate(zip(bots, doc_ids, strict=True)):
                bot.http = client
                assert {result["doc_id"] for result in await bot.search(f"text {number}")} == {doc_id}
                assert await bot.insert("new") > max(doc_ids)
            other = await register(client)
            await other.insert("of a new bot")
            assert (await client.delete(f"/collection/{bots[0].bot_id}")).status_code == 200
            async with connected(fresh) as db:
                await assert_at_rest(db, index)
            assert await found(services) == []
