"""Fail points: names before and after each step of each operation, where tests crash, fail or delay the server.

No code in ``app`` and no setting installs a hook. In production, ``failpoint`` finds no hook and returns.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress

Hook = Callable[[str], Awaitable[None]]

POINTS = (
    # Documents: insert, batch insert and PUT have the same steps.
    "write.before_t1",
    "write.after_t1",
    "write.before_carry",
    "write.before_embed",
    "write.after_embed",
    "write.before_upsert",
    "write.after_upsert",
    "write.before_t2",
    "write.after_t2",
    "write.before_restart",
    "write.after_restart",
    "write.before_compensate",
    "write.after_compensate",
    "generations.before_reserve",
    "generations.after_reserve",
    "generations.after_use",
    "delete.before",
    "delete.after",
    "patch_many.before",
    "patch_many.after",
    "stream.after_lines",
    "sync.after_found",
    "sync.before_delete",
    "sync.after_delete",
    # Bots.
    "bot_create.before_register",
    "bot_create.after_register",
    "bot_create.before_collection",
    "bot_create.after_collection",
    "bot_create.after_finish",
    "bot_delete.before_mark",
    "bot_delete.after_mark",
    "bot_delete.before_drop",
    "bot_delete.after_drop",
    "bot_delete.after_partitions",
    # Re-embedding a bot with another model.
    "reembed.before_begin",
    "reembed.after_begin",
    "reembed.after_collection",
    "reembed.before_upsert",
    "reembed.after_upsert",
    "reembed.before_switch",
    "reembed.in_switch",
    "reembed.after_switch",
    "reembed.before_abort",
    "reembed.after_abort",
    # Rebuilding vectors that Milvus lost.
    "rebuild.before_collection",
    "rebuild.after_collection",
    "rebuild.after_switch",
    "rebuild.before_upsert",
    "rebuild.after_upsert",
    "rebuild.before_finish",
    "rebuild.after_finish",
    # Background work.
    "drop_collection.before",
    "drop_collection.after",
    "recovery.before_compensate",
    "recovery.after_compensate",
    "recovery.after_claim",
    "gc.after_claim",
    "gc.before_delete",
    "gc.after_delete",
    "gc.before_end",
    "gc.after_end",
    "load.before",
    "load.after",
    "release.before",
    "release.after",
    "repair.before",
    "repair.after",
)

_hooks: list[Hook] = []


async def failpoint(point: str) -> None:
    """Calls the hooks that tests have installed. Raises what a hook raises."""
    for hook in _hooks:
        await hook(point)


def install(hook: Hook) -> Callable[[], None]:
    """Only for tests: ``hook`` is called at every point until the returned function is called."""
    _hooks.append(hook)

    def remove() -> None:
        with suppress(ValueError):
            _hooks.remove(hook)

    return remove
