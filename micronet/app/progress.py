"""The bar of the passes of networks over volumes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

__all__ = ["PassBar", "pass_bar"]


class PassBar:
    """A bar of passes; of what is segmented in tiles, of the tiles of all passes."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def advance(self, _: object) -> None:
        """Note that a pass is done."""
        self._bar.update()

    def tiles(self, done: int, total: int, where: str = "") -> None:
        """Note that a tile is done; `where` is the address at which a cluster shows what it does."""
        self._bar.unit, self._bar.total = "tile", total
        if where:
            self._bar.set_postfix_str(where, refresh=False)
        self._bar.update(done - self._bar.n)


@contextmanager
def pass_bar(passes: int) -> Iterator[PassBar]:
    """Show a bar while a block lasts."""
    with tqdm(total=passes, leave=False, disable=None, unit="pass") as bar:
        yield PassBar(bar)
