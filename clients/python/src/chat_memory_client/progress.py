"""A progress bar for batches, if tqdm is installed and it is wanted."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from operator import length_hint


@contextmanager
def counter(items: Iterable[object], wanted: bool) -> Iterator[Callable[[int], object]]:
    """Yields a function that counts finished items."""
    if not wanted:
        yield lambda _: None
        return
    from tqdm import tqdm

    with tqdm(total=length_hint(items) or None, unit="doc") as bar:
        yield bar.update
