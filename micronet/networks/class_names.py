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


def class_names(stated: Tensor | None, key: str) -> tuple[str, ...]:
    """Return the names that `class_names_tensor` wrote under a key; InputError where a tensor from a file has none."""
    numbers = [] if stated is None or stated.ndim != 1 or stated.numel() > _MOST_BYTES else stated.tolist()
    try:
        if not numbers or not all(number.is_integer() for number in numbers):
            raise ValueError("not bytes")
        names = bytes(map(int, numbers)).decode().split(_BETWEEN)
    except ValueError as error:  # what is no byte, and what is no UTF-8, is one too
        raise InputError(f"the weights do not say what they tell apart: '{key}' is no text") from error
    return check_classes(names)
