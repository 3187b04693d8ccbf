"""Names of classes among the weights: a tensor of the bytes of their UTF-8, as state dicts hold tensors only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from micronet.core.errors import InputError
from micronet.core.names import listed, name_key, write_name

__all__ = ["check_class_names", "class_names", "class_names_tensor"]

MOST_CLASSES = 64
_LONGEST = 100


def check_class_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of classes in their composed form; InputError unless each can be shown and they differ."""
    found = tuple(name_key(name) for name in names)
    if not 1 <= len(found) <= MOST_CLASSES:
        raise InputError(f"there are {len(found)} classes, expected 1 to {MOST_CLASSES}")
    for name in found:
        if not (0 < len(name) <= _LONGEST and name.isprintable() and name == name.strip()):
            raise InputError(
                f"'{write_name(name[:_LONGEST])}' is no name of a class: expected 1 to {_LONGEST} printable characters"
            )
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise InputError(f"classes named twice: {listed(twice)}")
    return found


def class_names_tensor(names: Sequence[str]) -> Tensor:
    """Return names as a float32 tensor (bytes,): their UTF-8, a line feed between them; InputError for what is none."""
    return torch.tensor(list("\n".join(check_class_names(names)).encode()), dtype=torch.float32)


def class_names(tensor: Tensor | None) -> tuple[str, ...]:
    """Return the names that `class_names_tensor` wrote; InputError where a tensor from a file holds none."""
    most = MOST_CLASSES * (4 * _LONGEST + 1)
    if tensor is None or tensor.ndim != 1 or not 1 <= tensor.numel() <= most:
        raise InputError("the weights do not name their classes")
    values = tensor.tolist()
    if not all(0 <= value <= 255 and float(value).is_integer() for value in values):
        raise InputError("the weights do not name their classes: there is something other than text")
    try:
        text = bytes(map(int, values)).decode()
    except UnicodeDecodeError as error:
        raise InputError("the weights do not name their classes: the names are no UTF-8") from error
    return check_class_names(text.split("\n"))
