from app.core.bots import bot_cache as steady
from app.core.bots.bot_cache import StableValueCache


def test_only_what_was_the_same_twice_running_is_expected() -> None:
    values = StableValueCache[str, int]()
    assert values.expected("a") is None
    for value, expected in [(1, None), (1, 1), (1, 1), (2, None), (1, None), (1, 1)]:
        values.saw("a", value)
        assert values.expected("a") == expected
    assert values.expected("b") is None


def test_the_keys_seen_longest_ago_are_forgotten(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(steady, "MOST", 2)
    values = StableValueCache[str, int]()
    for key in ("a", "b", "a", "b", "a", "c"):
        values.saw(key, 1)
    assert [values.expected(key) for key in "abc"] == [1, None, None]
