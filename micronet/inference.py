"""From a volume to a probability: one pass of µ-Net, or the iterative refinement of µr-Net."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from micronet import engine
from micronet.errors import InputError
from micronet.models import MINIMUM_AXIS, MicroNet, MicroRNet
from micronet.preprocess import normalize_image, normalize_mask
from micronet.volume import Volume, check_same_grid

__all__ = ["STABLE_CHANGE", "Iteration", "predict", "refine"]

#: Refinement has reached a fixed point when no probability moves by more than half a step of the 8-bit output.
STABLE_CHANGE = 0.5 / 255


@dataclass(frozen=True)
class Iteration:
    """What one refinement did to the mask.

    `number` counts from 1; `largest_change` and `mean_change` are of the probability, over all voxels;
    `flipped` counts the voxels that crossed 0.5 and `foreground` those above it.
    """

    number: int
    largest_change: float
    mean_change: float
    flipped: int
    foreground: int
    seconds: float

    @property
    def stable(self) -> bool:
        """Whether the 8-bit output would no longer change."""
        return self.largest_change <= STABLE_CHANGE


def predict(
    volume: Volume | NDArray[Any],
    model: MicroNet | MicroRNet,
    iterations: int = 10,
    initial_mask: Volume | NDArray[Any] | None = None,
    on_iteration: Callable[[Iteration], None] | None = None,
    *,
    y_crop: int | None = None,
    until_stable: bool = False,
    on_probability: Callable[[NDArray[np.float32]], None] | None = None,
) -> NDArray[np.float32]:
    """Return the probability that each voxel is lumen.

    µ-Net looks once. µr-Net starts from a blank mask (or `initial_mask`) and refines it `iterations` times; the
    soft probability is fed back, no threshold in between. No gradient is kept.

    Parameters
    ----------
    volume : Volume or ndarray of shape (Z, Y, X)
        Raw intensities; they are normalised here, over the whole volume. No axis shorter than 32.
    model : MicroNet or MicroRNet
        The work is done on the device that its weights lie on.
    iterations : int
        At least 1; for µ-Net it has no effect.
    initial_mask : Volume or ndarray of shape (Z, Y, X), optional
        Mask (bool) or probability in [0, 1] to start from, on the same grid; µr-Net only.
    on_iteration : callable, optional
        Called after each pass with an `Iteration`.
    y_crop : int, optional
        Only depths ``[:, :y_crop, :]`` are looked at; deeper voxels get probability 0.
    until_stable : bool
        Stop before `iterations` once the 8-bit output no longer changes.
    on_probability : callable, optional
        Called after each pass with the probability, of shape (Z, y_crop or Y, X); to look at, not to change or keep.

    Returns
    -------
    ndarray of shape (Z, Y, X), float32, in [0, 1]
        On the grid of the input.

    Raises
    ------
    InputError
        If the volume is no (Z, Y, X) array of real numbers, too short, constant or not finite; if the initial
        mask does not fit; or if an option is out of range.
    """
    array = volume.array if isinstance(volume, Volume) else volume
    if array.ndim != 3:
        raise InputError(f"a volume has three axes (Z, Y, X), this array has shape {array.shape}")
    depth = array.shape[1] if y_crop is None else y_crop
    if not 0 < depth <= array.shape[1]:
        raise InputError(f"y-crop must lie in 1..{array.shape[1]} (the Y axis), found {y_crop}")
    if iterations < 1:
        raise InputError(f"iterations must be at least 1, found {iterations}")
    for axis, length in zip("ZYX", (array.shape[0], depth, array.shape[2]), strict=True):
        if length < MINIMUM_AXIS:
            raise InputError(
                f"axis {axis} has {length} voxels; the networks pool twice by 4 and need at least {MINIMUM_AXIS}"
            )
    if isinstance(model, MicroNet) and initial_mask is not None:
        raise InputError("µ-Net takes no initial mask; use a µr-Net, or leave the mask out")

    image = np.ascontiguousarray(normalize_image(array)[:, :depth])
    start = _initial_probability(volume, initial_mask)[:, :depth]
    probability = refine(
        image, start, model, iterations, on_iteration, until_stable=until_stable, on_probability=on_probability
    )
    if depth == array.shape[1]:
        return probability
    whole = np.zeros(array.shape, np.float32)
    whole[:, :depth] = probability
    return whole


def _initial_probability(volume: Volume | NDArray[Any], mask: Volume | NDArray[Any] | None) -> NDArray[np.float32]:
    array = volume.array if isinstance(volume, Volume) else volume
    if mask is None:
        return np.zeros(array.shape, np.float32)
    if isinstance(mask, Volume) and isinstance(volume, Volume):
        check_same_grid(volume, mask, "volume", "initial mask")
    values = mask.array if isinstance(mask, Volume) else mask
    if values.shape != array.shape:
        raise InputError(f"initial mask has shape {values.shape}, the volume {array.shape}")
    if values.dtype.kind not in "buif" or not (values.min() >= 0 and values.max() <= 1):
        raise InputError(f"an initial mask holds values from 0 to 1, found {values.min()} to {values.max()}")
    return values.astype(np.float32)


def refine(
    image: NDArray[np.float32],
    start: NDArray[np.float32],
    model: MicroNet | MicroRNet,
    iterations: int,
    on_iteration: Callable[[Iteration], None] | None = None,
    *,
    until_stable: bool = False,
    on_probability: Callable[[NDArray[np.float32]], None] | None = None,
) -> NDArray[np.float32]:
    """Return the probability after one look of a µ-Net, or after refinements of a µr-Net.

    Parameters
    ----------
    image : ndarray of shape (Z, Y, X), float32
        Normalised, as `micronet.normalize_image` gives it.
    start : ndarray of shape (Z, Y, X), float32
        Probability to start from; what a µ-Net is compared with in its one `Iteration`.
    model, iterations, on_iteration, until_stable, on_probability
        As in `predict`.

    Returns
    -------
    ndarray of shape (Z, Y, X), float32
    """
    refines = isinstance(model, MicroRNet)
    look = _looker(image, model)
    before = start
    for number in range(1, (iterations if refines else 1) + 1):
        began = time.perf_counter()
        now = look(normalize_mask(before)) if refines else look()
        iteration = _compare(number, before, now, time.perf_counter() - began)
        if on_iteration is not None:
            on_iteration(iteration)
        if on_probability is not None:
            on_probability(now)
        before = now
        if until_stable and iteration.stable:
            break
    return before


def _looker(image: NDArray[np.float32], model: MicroNet | MicroRNet) -> Callable[..., NDArray[np.float32]]:
    """Return a function from a normalised mask (none for a µ-Net) to the probability."""
    parameters = dict(model.named_parameters())
    if engine.serves(torch.from_numpy(image), parameters):
        return engine.refiner(parameters, image)
    # One input tensor for all passes: the image in channel 0, the mask of the moment in channel 1.
    first = next(iter(parameters.values()))
    x = torch.empty((1, 1 + model.mask_channels, *image.shape), dtype=first.dtype, device=first.device)
    x[0, 0] = torch.from_numpy(image)

    def look(mask: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        if mask is not None:
            x[0, 1] = torch.from_numpy(mask)
        with torch.inference_mode():
            probability: NDArray[np.float32] = model(x)[0, 0].float().cpu().numpy()
        return probability

    return look


def _compare(number: int, before: NDArray[np.float32], now: NDArray[np.float32], seconds: float) -> Iteration:
    largest, total, flipped, foreground = 0.0, 0.0, 0, 0
    for old, new in zip(before, now, strict=True):  # plane by plane: no temporary of the volume's size
        change = np.abs(new - old)
        largest = max(largest, float(change.max()))
        total += float(change.sum(dtype=np.float64))
        inside = new > 0.5
        flipped += int(np.count_nonzero(inside != (old > 0.5)))
        foreground += int(np.count_nonzero(inside))
    return Iteration(number, largest, total / now.size, flipped, foreground, seconds)
