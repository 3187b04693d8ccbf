"""Classes that voxels are told apart into: their names, and a colour each that people of any colour vision tell apart.

Voxels hold the number of their class, 1 for the first; 0 is background, which is none of the classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

from micronet.core.errors import InputError
from micronet.core.names import folded

__all__ = ["ANNOTATION_COLOUR", "BACKGROUND", "LONGEST_NAME", "MOST_CLASSES", "check_classes", "colour", "rgb"]

# Okabe & Ito 2008, in the order in which they stand out on grey; the seventh is kept for annotations.
_COLOURS = ("#E69F00", "#009E73", "#CC79A7", "#0072B2", "#F0E442", "#D55E00")
#: Of an annotation, where a colour is what tells it from what was found.
ANNOTATION_COLOUR = "#56B4E9"
#: What is none of the classes; no class has this name.
BACKGROUND = "background"
#: Files hold labels of a byte.
MOST_CLASSES = 255
#: Characters of a name, which becomes part of names of files.
LONGEST_NAME = 40


def colour(number: int) -> str:
    """Return the colour of a class, ``#RRGGBB``; after the sixth they come again, lighter and darker in turn.

    >>> colour(1), colour(2)
    ('#E69F00', '#009E73')
    """
    if not 1 <= number <= MOST_CLASSES:
        raise InputError(f"classes are counted from 1 to {MOST_CLASSES}, found {number}")
    turn, place = divmod(number - 1, len(_COLOURS))
    share, target = (0.0, 0) if not turn else (_share((turn + 1) // 2), 255 if turn % 2 else 0)
    parts = (int(_COLOURS[place][at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(part + share * (target - part)):02X}" for part in parts)


def rgb(colour: str) -> tuple[float, float, float]:
    """Return red, green and blue in [0, 1] of ``#RRGGBB``.

    >>> rgb("#FF0033")
    (1.0, 0.0, 0.2)
    """
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return red, green, blue


def check_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of classes, or raise InputError where they cannot be told apart or written.

    Parameters
    ----------
    names : iterable of str
        In the order of their numbers, background not among them. They become names of segments and parts of names
        of files, so two that differ in case only are the same.
    """
    found = tuple(names)
    if not 1 <= len(found) <= MOST_CLASSES:
        raise InputError(f"there must be 1 to {MOST_CLASSES} classes, found {len(found)}")
    for name in found:
        if problem := _problem(name):
            raise InputError(f"the name of a class {problem}, found '{name}'")
    for one, other in combinations(found, 2):
        if folded(one) == folded(other):
            raise InputError(f"two classes have the same name: '{one}' and '{other}'")
    return found


def _problem(name: str) -> str:
    """Return what is wrong with the name of a class; nothing where all is well."""
    if not name or name != name.strip():
        return "is a word without space around it"
    if not name.isprintable():
        return "is of characters that can be printed"
    if len(name) > LONGEST_NAME:
        return f"has at most {LONGEST_NAME} characters"
    if taken := [character for character in "=,|/\\" if character in name]:
        return f"does not hold '{taken[0]}'"
    if folded(name) == BACKGROUND:
        return f"is not '{BACKGROUND}', which is what is none of them"
    return ""


def _share(number: int) -> float:
    """Return how far a colour is moved: 1/2, 1/4, 3/4, 1/8, .. (van der Corput), none of them twice."""
    share, part = 0.0, 0.5
    while number:
        number, bit = divmod(number, 2)
        share += bit * part
        part /= 2
    return share
