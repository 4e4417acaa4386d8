"""The simulation driven by Hypothesis, which shrinks a history that violates an invariant to a short one."""

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.simulation.faults import Faults
from tests.simulation.run import LONG, crash, finish, pause, revive
from tests.simulation.test_simulation import without_waiting_for_late_writes
from tests.simulation.workload import EVERYTHING, Clients
from tests.simulation.world import Violation, World, internal_errors

processes = st.integers(0, 1)
bots = st.integers(0, 1)
chunks = st.integers(1, 3)
RATES = {"upsert": 0.7, "delete": 0.3, "database": 0.1, "read": 0.1}


class Machine(RuleBasedStateMachine):
    """Each rule begins a request, begins a fault or lets time pass. Requests run concurrently."""

    @initialize(
        seed=st.integers(0, 2**16),
        rates=st.fixed_dictionaries({kind: st.sampled_from((0.0, rate)) for kind, rate in RATES.items()}),
    )
    def start(self, seed: int, rates: dict[str, float]) -> None:
        self.world = World(seed, Faults.none())
        self.clients = Clients(self.world, bots=2)
        for bot in (0, 1):
            self.world.client(self.clients.create(bot))
        self.world.run_clients(LONG)
        self.world.faults = Faults(rates, slow=0.05)

    def known(self, bot: int, number: int) -> int | None:
        doc_ids = self.clients.doc_ids(bot)
        return doc_ids[number % len(doc_ids)] if doc_ids else None

    @rule(bot=bots, chunks=chunks, bad=st.booleans())
    def insert(self, bot: int, chunks: int, bad: bool) -> None:
        self.world.client(self.clients.insert(bot, chunks, bad=bad))

    @rule(bot=bots, number=st.integers(0, 9), chunks=chunks)
    def replace(self, bot: int, number: int, chunks: int) -> None:
        if (doc_id := self.known(bot, number)) is not None:
            self.world.client(self.clients.replace(bot, doc_id, chunks))

    @rule(bot=bots, number=st.integers(0, 9))
    def delete(self, bot: int, number: int) -> None:
        if (doc_id := self.known(bot, number)) is not None:
            self.world.client(self.clients.delete(bot, [doc_id]))

    @rule(bot=bots, number=st.integers(0, 9))
    def get(self, bot: int, number: int) -> None:
        if (doc_id := self.known(bot, number)) is not None:
            self.world.client(self.clients.get(bot, doc_id))

    @rule(bot=bots, limit=st.sampled_from((1, EVERYTHING)), kind=st.sampled_from((None, 0, 1)))
    def search(self, bot: int, limit: int, kind: int | None) -> None:
        self.world.client(self.clients.search(bot, limit, kind))

    @rule(seconds=st.sampled_from((0.02, 0.1, 1.0, 5.0)))
    def pass_time(self, seconds: float) -> None:
        self.world.loop.run_until(lambda: False, self.world.loop.time() + seconds)

    @precondition(lambda self: any(process.dead for process in self.world.processes))
    @rule()
    def revive(self) -> None:
        for number in range(len(self.world.processes)):
            revive(self.world, number)

    @rule(number=processes)
    def crash(self, number: int) -> None:
        crash(self.world, number)

    @rule(number=processes, length=st.sampled_from((1.0, 9.0)))
    def pause(self, number: int, length: float) -> None:
        pause(self.world, number, length)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.world.run_clients(LONG)
            finish(self.world, self.clients)
        finally:
            self.world.close()


QUICK = settings(
    max_examples=60,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def test_machine_finds_no_violation() -> None:
    with internal_errors() as errors:
        run_state_machine_as_test(Machine, settings=QUICK)  # type: ignore[no-untyped-call]
    assert not errors


def test_machine_finds_a_broken_design(monkeypatch: pytest.MonkeyPatch) -> None:
    without_waiting_for_late_writes(monkeypatch)
    with internal_errors(), pytest.raises(Violation, match="surplus"):
        run_state_machine_as_test(
            Machine, settings=settings(QUICK, max_examples=3000, phases=[Phase.generate], report_multiple_bugs=False)
        )  # type: ignore[no-untyped-call]
