"""From a volume to a probability: one pass of µ-Net, or the iterative refinement of µr-Net."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from micronet.core.errors import InputError
from micronet.core.volume import Volume, share_grid
from micronet.io.labels import BACKGROUND, LUMEN
from micronet.networks import engine
from micronet.networks.normalize import (
    MASK_OFFSET,
    MASK_SCALE,
    normalize_image,
    normalize_mask,
)
from micronet.networks.padding import Padding
from micronet.networks.registry import classes_of, engine_parameters, network_of

__all__ = [
    "MASK",
    "SETTLED_PART",
    "SETTLED_PASSES",
    "Change",
    "Iteration",
    "Refinement",
    "checked_depth",
    "has_settled",
    "hold",
    "initial_probability",
    "look_for_classes",
    "predict",
    "predict_classes",
    "predict_whole",
    "refine",
]

#: What the engine is told so that it does to a mask what `normalize_mask` does.
MASK = (MASK_SCALE, MASK_OFFSET)

#: Refinement has settled when fewer than this part of the lumen's voxels cross 0.5 in each of so many passes running.
#: It never comes to rest: some voxels at the wall go on to flip (docs/segment.md has what was measured).
SETTLED_PART, SETTLED_PASSES = 0.005, 3


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
    def calm(self) -> bool:
        """Whether fewer than `SETTLED_PART` of the lumen's voxels crossed 0.5, or none did."""
        return self.flipped == 0 or self.flipped < SETTLED_PART * self.foreground


def has_settled(iterations: Sequence[Iteration]) -> bool:
    """Return whether the last `SETTLED_PASSES` passes changed next to nothing."""
    last = iterations[-SETTLED_PASSES:]
    return len(last) == SETTLED_PASSES and all(iteration.calm for iteration in last)


@dataclass(frozen=True, eq=False)
class Refinement:
    """How a volume is looked at: the arguments of `predict` beside volume and network, which says what they are.

    `keep` (Z, Y, X) holds voxels at what a person says that they are, before the first pass and after every one:
    1 lumen, 2 background, 0 is free. Those below `y_crop` are held in the result too.
    """

    iterations: int = 10
    initial_mask: Volume | NDArray[Any] | None = None
    on_iteration: Callable[[Iteration], None] | None = None
    y_crop: int | None = None
    until_stable: bool = False
    on_probability: Callable[[Any], None] | None = None
    keep: NDArray[np.uint8] | None = None

    def tell(self, iterations: Sequence[Iteration], probability: Any) -> bool:
        """Tell whoever listens of the last pass, with the probability after it; return whether no more are needed."""
        if self.on_iteration is not None:
            self.on_iteration(iterations[-1])
        if self.on_probability is not None:
            self.on_probability(probability)
        return self.until_stable and has_settled(iterations)

    def hold(self, probability: NDArray[np.float32], first: int = 0) -> NDArray[np.float32]:
        """Return the probability in which voxels that are kept are what they are, changed in place.

        Parameters
        ----------
        probability : ndarray of shape (planes, y_crop or Y, X), float32
        first : int
            Which plane of the volume is its first.
        """
        if self.keep is not None:
            for plane, kept in zip(probability, self.keep[first : first + len(probability)], strict=True):
                hold(plane, kept)
        return probability


def hold(plane: NDArray[np.float32], kept: NDArray[np.uint8]) -> None:
    """Set what is kept in a plane of a probability (Y, X): 1 where it is lumen, 0 where it is background."""
    here = kept[: plane.shape[0]]
    np.putmask(plane, here == LUMEN, 1.0)
    np.putmask(plane, here == BACKGROUND, 0.0)


def predict(
    volume: Volume | NDArray[Any],
    model: nn.Module,
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
        Raw intensities; they are normalised here, over the whole volume. An axis below 32 voxels is mirrored for the
        network (`networks.padding.Padding`); what is returned, counted and called back with is the volume itself. A
        taught network wants a Volume, for its voxel size, and the logarithm taken already where it was taught so.
    model : torch.nn.Module
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
        Stop before `iterations` once the mask has settled, as `has_settled` says.
    on_probability : callable, optional
        Called after each pass with the probability, of shape (Z, y_crop or Y, X); to look at, not to change or keep.

    Returns
    -------
    ndarray of shape (Z, Y, X), float32, in [0, 1]
        On the grid of the input.

    Raises
    ------
    InputError
        If the volume is no (Z, Y, X) array of real numbers, constant or not finite; if the initial mask does not
        fit; or if an option is out of range.
    """
    how = Refinement(
        iterations,
        initial_mask,
        on_iteration,
        y_crop=y_crop,
        until_stable=until_stable,
        on_probability=on_probability,
    )
    return predict_whole(volume, model, how)


def predict_whole(volume: Volume | NDArray[Any], model: nn.Module, how: Refinement) -> NDArray[np.float32]:
    """Return what `predict` returns, its settings in one object."""
    array = volume.array if isinstance(volume, Volume) else volume
    depth = checked_depth(array, model, how)
    image = np.ascontiguousarray(normalize_image(array)[:, :depth])
    if network_of(model).in_um:
        spacing_um = volume.spacing_um if isinstance(volume, Volume) else None
        probability = _at_once(image, spacing_um, model, how)
    else:
        start = how.hold(initial_probability(volume, how.initial_mask)[:, :depth].astype(np.float32))
        probability = _refined(image, start, model, how)
    if depth == array.shape[1]:
        return probability
    whole = np.zeros(array.shape, np.float32)
    whole[:, :depth] = probability
    return how.hold(whole)


def predict_classes(
    volume: Volume | NDArray[Any], model: nn.Module, how: Refinement
) -> tuple[NDArray[np.float32], list[Iteration]]:
    """Return what a network that tells several classes apart says of a volume, in one pass.

    Parameters
    ----------
    volume : Volume or ndarray of shape (Z, Y, X)
        As `predict`.
    model : torch.nn.Module
        Its output has a channel a class, background not among them.
    how : Refinement
        Its `y_crop` is looked at, and who listens is told of the last class's pass.

    Returns
    -------
    probability : ndarray of shape (classes, Z, Y, X), float32
        Deeper than `y_crop` all are 0.
    passes : list of Iteration
        One a class: how many voxels are above 0.5.
    """
    array = volume.array if isinstance(volume, Volume) else volume
    depth = checked_depth(array, model, how)
    image = np.ascontiguousarray(normalize_image(array)[:, :depth])
    began = time.perf_counter()
    found = look_for_classes(image, model)
    probability = np.zeros((len(found), *array.shape), np.float32)
    passes = []
    for channel, whole in zip(found, probability, strict=True):
        whole[:, :depth] = channel
        change = Change()
        change.add(initial_probability(whole, None), whole)
        passes.append(change.iteration(1, time.perf_counter() - began))
    how.tell(passes, probability[-1, :, :depth])
    return probability, passes


def look_for_classes(image: NDArray[np.float32], model: nn.Module) -> NDArray[np.float32]:
    """Return the probability of each class, (classes, Z, Y, X), of a normalised image (Z, Y, X)."""
    first = next(model.parameters())
    x = torch.from_numpy(image)[None, None].to(first.device, first.dtype)
    with torch.inference_mode():
        found: NDArray[np.float32] = model(x)[0].float().cpu().numpy()
    return found


def checked_depth(array: Any, model: nn.Module, how: Refinement) -> int:
    """Return how many voxels of Y are looked at of what has a shape; InputError where a setting does not fit."""
    if len(array.shape) != 3:
        raise InputError(f"a volume has three axes (Z, Y, X), this array has shape {array.shape}")
    depth = array.shape[1] if how.y_crop is None else how.y_crop
    if not 0 < depth <= array.shape[1]:
        raise InputError(f"y-crop must lie in 1..{array.shape[1]} (the Y axis), found {how.y_crop}")
    if how.keep is not None and how.keep.shape != array.shape:
        raise InputError(f"voxels to keep have shape {how.keep.shape}, the volume {array.shape}")
    if how.iterations < 1:
        raise InputError(f"iterations must be at least 1, found {how.iterations}")
    network = network_of(model)
    if not network.refines and how.initial_mask is not None:
        raise InputError(f"{network.title} takes no initial mask; use a µr-Net, or leave the mask out")
    return depth


def initial_probability(volume: Volume | NDArray[Any], mask: Volume | NDArray[Any] | None) -> NDArray[Any]:
    """Return a checked mask or probability as it is; without one, zeros that take no memory."""
    array = volume.array if isinstance(volume, Volume) else volume
    if mask is None:
        return np.broadcast_to(np.float32(0), array.shape)
    if isinstance(mask, Volume) and isinstance(volume, Volume):
        share_grid(volume, mask, "volume", "initial mask")
    values = mask.array if isinstance(mask, Volume) else mask
    if values.shape != array.shape:
        raise InputError(f"initial mask has shape {values.shape}, the volume {array.shape}")
    if values.dtype.kind not in "buif" or not (values.min() >= 0 and values.max() <= 1):
        raise InputError(f"an initial mask holds values from 0 to 1, found {values.min()} to {values.max()}")
    return values


def refine(
    image: NDArray[np.float32],
    start: NDArray[np.float32],
    model: nn.Module,
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
        Normalised, as `micronet.normalize_image` gives it; short axes are mirrored here.
    start : ndarray of shape (Z, Y, X), float32
        Probability to start from; what a µ-Net is compared with in its one `Iteration`.
    model, iterations, on_iteration, until_stable, on_probability
        As in `predict`.

    Returns
    -------
    ndarray of shape (Z, Y, X), float32
    """
    how = Refinement(iterations, on_iteration=on_iteration, until_stable=until_stable, on_probability=on_probability)
    return _refined(image, start, model, how)


def _at_once(
    image: NDArray[np.float32], spacing_um: tuple[float, float, float] | None, model: Any, how: Refinement
) -> NDArray[np.float32]:
    """Return what a network that knows lengths in µm says of a volume."""
    began = time.perf_counter()
    probability: NDArray[np.float32] = how.hold(model.predict(image, model.checked_spacing(spacing_um)))
    change = Change()
    change.add(initial_probability(image, None), probability)
    how.tell([change.iteration(1, time.perf_counter() - began)], probability)
    return probability


def _refined(
    image: NDArray[np.float32], start: NDArray[np.float32], model: nn.Module, how: Refinement
) -> NDArray[np.float32]:
    network = network_of(model)
    if len(classes := classes_of(model)) > 1:
        raise InputError(
            f"this {network.title} tells {', '.join(classes)} apart, each with a probability of its own "
            "(micronet.segment.refine.predict_classes), where one of lumen is expected"
        )
    padding = Padding(image.shape, network.smallest_axis)
    look = _looker(padding.pad(image), model)
    before, iterations = start, list[Iteration]()
    for number in range(1, network.passes(how.iterations) + 1):
        began = time.perf_counter()
        now = how.hold(padding.unpad(look(padding.pad(before)) if network.refines else look()))
        change = Change()
        change.add(before, now)
        before = now
        iterations.append(change.iteration(number, time.perf_counter() - began))
        if how.tell(iterations, now):
            break
    return before


def _looker(image: NDArray[np.float32], model: nn.Module) -> Callable[..., NDArray[np.float32]]:
    """Return a function from a mask (none for a µ-Net) to the probability."""
    parameters = engine_parameters(model)
    if engine.serves(torch.from_numpy(image), parameters):
        refiner = engine.refiner(parameters, image)
        return lambda mask=None: refiner(mask, MASK)
    # One input tensor for all passes: the image in channel 0, the mask of the moment in channel 1.
    first = next(model.parameters())
    x = torch.empty((1, 1 + network_of(model).refines, *image.shape), dtype=first.dtype, device=first.device)
    x[0, 0] = torch.from_numpy(image)

    def look(mask: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        if mask is not None:
            x[0, 1] = torch.from_numpy(normalize_mask(mask))
        with torch.inference_mode():
            probability: NDArray[np.float32] = model(x)[0, 0].float().cpu().numpy()
        return probability

    return look


class Change:
    """Gathers what a refinement did, plane by plane: no temporary of the volume's size."""

    def __init__(self) -> None:
        self._largest, self._total, self._flipped, self._foreground, self._voxels = 0.0, 0.0, 0, 0, 0

    @classmethod
    def from_blank(cls, found: NDArray[np.float32]) -> Change:
        """Return what a network did that looks once."""
        change = cls()
        change.add(initial_probability(found, None), found)
        return change

    @classmethod
    def joined(cls, others: Iterable[Change]) -> Change:
        """Return what several gathered, in their order."""
        whole = cls()
        for other in others:
            whole.join(other)
        return whole

    def add(self, before: NDArray[np.float32], now: NDArray[np.float32]) -> None:
        """Take in planes as they were and as they are."""
        for old, new in zip(before, now, strict=True):
            change = np.abs(new - old)
            self._largest = max(self._largest, float(change.max()))
            self._total += float(change.sum())  # pairwise, in float32: within 1e-6 of a plane, at half the time
            inside = new > 0.5
            self._flipped += int(np.count_nonzero(inside != (old > 0.5)))
            self._foreground += int(np.count_nonzero(inside))
        self._voxels += now.size

    def join(self, other: Change) -> None:
        """Take in what another gathered of other planes."""
        self._largest = max(self._largest, other._largest)
        self._total += other._total
        self._flipped += other._flipped
        self._foreground += other._foreground
        self._voxels += other._voxels

    def iteration(self, number: int, seconds: float) -> Iteration:
        """Return what all of them amount to."""
        mean = self._total / self._voxels
        return Iteration(number, self._largest, mean, self._flipped, self._foreground, seconds)
