"""Test servers that start at the same moment get ports of their own."""

import random
import subprocess
import sys

import pytest

from tests.milvus_server import free_ports

CHOOSE = "import random; random.seed(7); from tests.milvus_server import free_ports; print(*free_ports(5))"


def test_no_two_processes_are_given_the_same_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though nobody listens on them yet."""
    monkeypatch.setattr(random, "sample", random.Random(7).sample)
    mine = free_ports(5)
    others = subprocess.check_output([sys.executable, "-c", CHOOSE], text=True).split()
    assert len(others) == 5
    assert not set(mine) & set(map(int, others))
    assert not set(mine) & set(free_ports(5))
