"""The networks that a person means by ``--model``: one, or one for each of several segments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from micronet.core.classes import check_classes
from micronet.core.errors import FileError, InputError
from micronet.networks.weights import find_weights

__all__ = ["models_from"]


def models_from(texts: Sequence[str], folders: Sequence[Path]) -> tuple[list[Path], tuple[str, ...]]:
    """Return the weights that a person means by ``NAME``, or by several ``SEGMENT=NAME``, and the names of segments.

    Parameters
    ----------
    texts : sequence of str
        At least one. A path, or the name of weights in one of the folders, that has an ``=`` in it is no segment's.
        Several may have no segment: it is for the networks to go together.
    folders : sequence of Path
        As `micronet.networks.weights.find_weights`.

    Returns
    -------
    paths : list of Path
    names : tuple of str
        A segment for each path; none where weights are given without a name, of which there may be several.

    Raises
    ------
    InputError
        If named and bare weights are mixed, or names cannot be told apart.
    FileError
        If there are no such weights.
    """
    bare, named = list[str](), list[tuple[str, str]]()
    for text in texts:
        name, is_named, weights = text.partition("=")
        if is_named and not _is_there(text, folders):
            named.append((name, weights))
        else:
            bare.append(text)
    if named and bare:
        raise InputError(f"--model {named[0][0]}=.. names a segment, and '{bare[0]}' none: name each, as SEGMENT=NAME")
    try:
        names = check_classes(name for name, _ in named) if named else ()
    except InputError as error:
        raise InputError(f"{error} (--model {named[0][0]}=..)") from error
    return [find_weights(weights, folders) for weights in bare or (weights for _, weights in named)], names


def _is_there(text: str, folders: Sequence[Path]) -> bool:
    try:
        find_weights(text, folders)
    except FileError:
        return False
    return True
