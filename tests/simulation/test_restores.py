"""Restores of PostgreSQL whose losses the counts of rows hide: rows of other documents are too many in Milvus."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from app.core.operations import rebuild
from app.schemas.rows import CHUNKS_PER_GENERATION
from tests.simulation.faults import CHECK, LATE_WRITE_WINDOW, LEASE, Faults
from tests.simulation.invariants import check_nothing_is_missing
from tests.simulation.run import LONG
from tests.simulation.test_simulation import change_checks, without_doubting_counts_after_a_restore
from tests.simulation.workload import Clients
from tests.simulation.world import Violation, World, internal_errors


class Restores:
    """One bot, one server process and no faults but those of the test."""

    def __init__(self) -> None:
        self.world = World(0, Faults.none(), processes=1)
        self.clients = Clients(self.world, bots=1, keys=False)
        self.world.client(self.clients.create(0))
        self.world.run_clients(LONG)

    def insert(self, chunks: int = 1) -> int:
        known = set(self.clients.doc_ids(0))
        self.world.client(self.clients.insert(0, chunks))
        self.world.run_clients(LONG)
        (doc_id,) = set(self.clients.doc_ids(0)) - known
        return doc_id

    def delete(self, doc_id: int) -> None:
        """Returns when the vectors are collected too."""
        self.world.client(self.clients.delete(0, [doc_id]))
        self.world.run_clients(LONG)
        self.world.rest()

    def back_up(self) -> int:
        self.world.back_up()
        return len(self.world.backups) - 1

    def restore(self, backup: int) -> None:
        self.world.restore(backup)
        self.clients.restart_history()

    def keys(self, doc_id: int) -> list[int]:
        (row,) = self.world.tables.bots.values()
        generation = self.world.tables.partition(row.bot_id).documents[doc_id].generation
        span = range(generation * CHUNKS_PER_GENERATION, (generation + 1) * CHUNKS_PER_GENERATION)
        return [key for key in self.world.milvus.keys(row.collection) if key in span]


@contextmanager
def restores() -> Iterator[Restores]:
    with internal_errors() as errors:
        made = Restores()
        try:
            yield made
        finally:
            made.world.close()
    assert not errors


def backup_and_an_older_one_are_restored_in_turn() -> None:
    """The older one brings back a document that the newer one does not have. Its vectors are made again and stay."""
    with restores() as it:
        surplus, lost = it.insert(2), it.insert(2)
        older = it.back_up()
        it.delete(surplus)
        newer = it.back_up()
        it.restore(older)
        it.world.rest()
        assert it.keys(surplus)
        it.delete(lost)
        it.restore(newer)
        it.world.rest()
        check_nothing_is_missing(it.world)


def delete_from_before_a_restore_lands_after_its_first_check() -> None:
    with restores() as it:
        lost = it.insert(2)
        backup, late = it.back_up(), it.keys(lost)
        it.insert(2)  # The restore loses it. Its vectors stay.
        it.restore(backup)
        (row,) = it.world.tables.bots.values()
        it.world.at(LEASE + 2 * LATE_WRITE_WINDOW - 1, lambda: it.world.milvus.delete(row.collection, late))
        it.insert(1)  # So that the restore is noticed at once.
        it.world.loop.run_until(lambda: False, it.world.loop.time() + 4 * CHECK)
        it.world.rest()
        check_nothing_is_missing(it.world)


def trusting_counts_while_deletes_may_be_late(monkeypatch: pytest.MonkeyPatch) -> None:
    change_checks(monkeypatch, settled=True)


def test_vectors_that_an_older_backup_brought_back_hide_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    backup_and_an_older_one_are_restored_in_turn()
    without_doubting_counts_after_a_restore(monkeypatch)
    with pytest.raises(Violation, match="lacks vectors"):
        backup_and_an_older_one_are_restored_in_turn()


def test_a_delete_from_before_a_restore_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    delete_from_before_a_restore_lands_after_its_first_check()
    trusting_counts_while_deletes_may_be_late(monkeypatch)
    with pytest.raises(Violation, match="lacks vectors"):
        delete_from_before_a_restore_lands_after_its_first_check()


def test_comparison_pauses_between_its_parts_and_keeps_its_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    """For as long as each part took, so that a bot of millions takes at most half of the stores' time."""
    monkeypatch.setattr(rebuild, "COMPARED_KEYS", 2)
    with restores() as it:
        it.insert(7)
        it.restore(it.back_up())
        it.world.rest()
    calls = [(when, name) for when, _, name, *_ in it.world.history.events if name.startswith(("keys_from", "extend_"))]
    ends = [number for number, (_, name) in enumerate(calls) if name.startswith("extend_check")]
    assert len(ends) >= 3
    for end in ends:
        (began_at, begin), (extended_at, _), (next_at, following) = calls[end - 1 : end + 2]
        assert begin.startswith("keys_from")
        assert following.startswith("keys_from")
        assert next_at - extended_at > 0.9 * (extended_at - began_at)
