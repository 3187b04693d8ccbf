"""What a person wants of a figure: its file, which pictures, which planes, which part of the volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from micronet.core.errors import InputError, setting

__all__ = ["FIGURE_FORMATS", "PANELS", "FigureWish"]

#: Suffixes of figures.
FIGURE_FORMATS = (".svg", ".pdf", ".png")
#: The pictures of a volume: slices and maximum projections along its axes.
PANELS = ("z", "y", "x", "max-z", "max-y", "max-x")


@dataclass(frozen=True)
class FigureWish:
    """A figure, written beside the other results.

    Parameters
    ----------
    name : str
        Its file; the suffix is the format.
    panel : str
        One of `PANELS`, or ``"all"``.
    slice : tuple of (str, int)
        Planes by axis (``"z"``, ``"y"``, ``"x"``), counted from 0.
    crop : tuple of (str, int, int)
        From which voxel, and up to which, that axis is shown.
    """

    name: str
    panel: str = "all"
    slice: tuple[tuple[str, int], ...] = ()
    crop: tuple[tuple[str, int, int], ...] = ()

    def check(self, shape: Sequence[int], name: str) -> None:
        """Raise InputError where a plane or a box does not lie in a volume (called `name`) of this (Z, Y, X) shape."""
        sizes = dict(zip("zyx", shape, strict=True))
        shown = {letter: (0, size) for letter, size in sizes.items()}
        for letter, first, end in self.crop:
            if not 0 <= first < end <= sizes[letter]:
                raise InputError(
                    f"{name} has no {letter}={first}:{end}: its {letter} runs from 0 to {sizes[letter]} "
                    f"{setting('crop')}"
                )
            shown[letter] = first, end
        for letter, plane in self.slice:
            first, end = shown[letter]
            if not first <= plane < end:
                raise InputError(
                    f"{name} has no plane {letter}={plane} to show: {letter} runs from {first} to {end - 1} "
                    f"{setting('slice', 'crop')}"
                )

    @classmethod
    def of(cls, path: Path, folder: Path, **wishes: object) -> FigureWish:
        """Return the wish for a file in the folder of the results; InputError where it lies elsewhere."""
        if path.suffix.lower() not in FIGURE_FORMATS:
            formats = ", ".join(FIGURE_FORMATS)
            raise InputError(f"'{path}': a figure is one of {formats}, told by its suffix {setting('figure')}")
        if path != Path(path.name) and path.parent.resolve() != folder.resolve():
            raise InputError(
                f"'{path}': a figure lies beside the other results, in '{folder}'; give its name only "
                f"{setting('figure')}, or that folder {setting('output')}"
            )
        return cls(path.name, **wishes)  # type: ignore[arg-type]
