"""Benchmarks that run the server's statements by themselves pass as many values as these take."""

import re
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest

from app.schemas.queries import SQL
from scripts.benchmarks import partitions, rls


def statements() -> list[tuple[str, str, Sequence[Any]]]:
    of_partitions = [
        (f"partitions {name}", SQL[name], [None, *values]) for name, values in partitions.STATEMENTS.items()
    ]
    of_rls = [(f"rls {name}", sql, values) for name, (sql, values) in rls._statements(uuid4(), 300).items()]
    return [*of_partitions, *of_rls]


@pytest.mark.parametrize(("sql", "values"), [one[1:] for one in statements()], ids=[one[0] for one in statements()])
def test_as_many_values_as_parameters(sql: str, values: Sequence[Any]) -> None:
    assert len(values) == max(map(int, re.findall(r"\$(\d+)", sql)))
