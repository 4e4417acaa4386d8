import pytest

from app.core.bots import bot_cache
from app.core.bots.bot_cache import StableValueCache


def test_a_value_is_stable_after_two_equal_observations() -> None:
    values = StableValueCache[str, int]()
    assert values.stable_value("a") is None
    for value, stable in [(1, None), (1, 1), (1, 1), (2, None), (1, None), (1, 1)]:
        values.observe("a", value)
        assert values.stable_value("a") == stable
    assert values.stable_value("b") is None


def test_the_keys_observed_longest_ago_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bot_cache, "MAX_KEYS", 2)
    values = StableValueCache[str, int]()
    for key in ("a", "b", "a", "b", "a", "c"):
        values.observe(key, 1)
    assert [values.stable_value(key) for key in "abc"] == [1, None, None]
