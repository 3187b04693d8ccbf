"""How a mask is cleaned, as a person says it; `micronet.measure.pieces` does it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from micronet.core.errors import InputError

__all__ = ["Cleaning"]

# Number that a size may be written as: µm³.
_SIZE = re.compile(r"[0-9]{1,12}(\.[0-9]{1,6})?")


@dataclass(frozen=True)
class Cleaning:
    """What is done to a mask, in this order.

    Parameters
    ----------
    below_um3 : float, optional
        Connected pieces of less than this volume, in µm³, are removed. Voxels touch by faces, edges and corners.
    largest : bool
        Of what is left only the largest piece is kept.
    holes : bool
        What is enclosed on all sides becomes lumen: background that no way through faces leads out of.

    >>> Cleaning.of("500,largest,holes")
    Cleaning(below_um3=500.0, largest=True, holes=True)
    >>> str(Cleaning.of("holes, 500"))
    '500,holes'
    """

    below_um3: float | None = None
    largest: bool = False
    holes: bool = False

    @classmethod
    def of(cls, text: str) -> Cleaning:
        """Read a list of words and a size, such as ``500,largest,holes``; InputError where it is something else."""
        words = [word.strip() for word in text.split(",")]
        sizes = [word for word in words if _SIZE.fullmatch(word)]
        unknown = [word for word in words if word not in (*sizes, "largest", "holes")]
        if unknown or len(sizes) > 1 or len(set(words)) < len(words) or any(float(one) == 0 for one in sizes):
            raise InputError(
                f"'{text}' says not how to clean a mask: expected a smallest volume in µm³, largest, holes, or several "
                "with commas between, such as 500,largest,holes"
            )
        return cls(float(sizes[0]) if sizes else None, "largest" in words, "holes" in words)

    def __str__(self) -> str:
        """Return the text that reads as this."""
        size = [] if self.below_um3 is None else [f"{self.below_um3:g}"]
        return ",".join([*size, *(["largest"] if self.largest else []), *(["holes"] if self.holes else [])])
