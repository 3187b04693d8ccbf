"""Names of classes among the weights: a tensor of the bytes of their UTF-8, as state dicts hold tensors only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from micronet.core.classes import LONGEST_NAME, MOST_CLASSES, check_classes
from micronet.core.errors import InputError

__all__ = ["class_names", "class_names_tensor"]

_BETWEEN = "\n"
_MOST_BYTES = MOST_CLASSES * (4 * LONGEST_NAME + 1)


def class_names_tensor(names: Sequence[str]) -> Tensor:
    """Return names as a float32 tensor (bytes,): their UTF-8, a line each; InputError as `check_classes`."""
    return torch.tensor(list(_BETWEEN.join(check_classes(names)).encode()), dtype=torch.float32)


def class_names(tensor: Tensor | None) -> tuple[str, ...]:
    """Return the names that `class_names_tensor` wrote; InputError where a tensor from a file holds none."""
    if tensor is None or tensor.ndim != 1 or not 1 <= tensor.numel() <= _MOST_BYTES:
        raise InputError("the weights do not name their classes")
    values = tensor.tolist()
    if not all(0 <= value <= 255 and float(value).is_integer() for value in values):
        raise InputError("the weights do not name their classes: there is something other than text")
    try:
        text = bytes(map(int, values)).decode()
    except UnicodeDecodeError as error:
        raise InputError("the weights do not name their classes: the names are no UTF-8") from error
    return check_classes(text.split(_BETWEEN))
