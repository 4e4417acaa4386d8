"""Each break breaks something: one that replaces nothing makes the checker look good."""

import pytest

from tests.chaos.breaks import replace


class Base:
    def inherited(self) -> None: ...


class Owner(Base):
    def own(self) -> int:
        return 1


def test_a_member_is_replaced() -> None:
    replace(Owner, "own", lambda _self: 2)
    assert Owner().own() == 2


@pytest.mark.parametrize("name", ["renamed", "inherited"])
def test_a_member_that_the_class_does_not_define_is_an_error(name: str) -> None:
    with pytest.raises(LookupError, match=name):
        replace(Owner, name, None)
