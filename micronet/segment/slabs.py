"""From a volume to a probability as `refine` does it, slab by slab: to the same bit, in little memory."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from micronet.core.errors import InputError
from micronet.core.volume import Volume
from micronet.io.scratch import Scratch
from micronet.networks import engine
from micronet.networks.normalize import image_statistics, standardize
from micronet.networks.padding import Padding
from micronet.networks.registry import engine_parameters, network_of
from micronet.segment.refine import MASK, Change, Iteration, Refinement, checked_depth, initial_probability

__all__ = ["predict_in_slabs", "works_in_slabs"]

_AS_BY_DEFAULT = Refinement()


def works_in_slabs(model: nn.Module) -> bool:
    """Return whether `predict_in_slabs` can be used: the numba engine computes this model."""
    return engine.serves(torch.empty(0), engine_parameters(model))


def predict_in_slabs(
    volume: Volume | NDArray[Any], model: nn.Module, folder: Path, planes: int, how: Refinement = _AS_BY_DEFAULT
) -> Scratch:
    """Return what `micronet.predict` returns, to the bit, with no float array of the volume's size in memory.

    The image stays as it is and is normalised slab by slab; the probability lies in files without a name.

    Parameters
    ----------
    volume, model
        As in `micronet.predict`.
    folder : Path
        Where there is room for 4 bytes a voxel (µ-Net), or 8 (µr-Net).
    planes : int
        Thickness of a slab, a positive multiple of 4.
    how : Refinement
        Its `on_probability` gets the whole volume's planes on disk.

    Returns
    -------
    Scratch
        The probability (Z, Y, X); to be closed by the caller.

    Raises
    ------
    InputError
        As `micronet.predict`; or if it is not the numba engine that computes.
    FileError
        If the disk is full.
    """
    array = volume.array if isinstance(volume, Volume) else volume
    depth = checked_depth(array, model, how)
    if not works_in_slabs(model):
        raise InputError("only the numba engine on the CPU works in slabs")
    work = _Planes(array, depth, how)
    work.before = initial_probability(volume, how.initial_mask)
    network = network_of(model)
    passes, iterations = network.passes(how.iterations), list[Iteration]()
    with ExitStack() as files:
        work.now = files.enter_context(Scratch(folder, array.shape))
        look = engine.slab_refiner(engine_parameters(model), work.padding.shape, work.image, planes)
        for number in range(1, passes + 1):
            began = time.perf_counter()
            work.change = Change()
            look(work.mask if network.refines else None, work.write, MASK)
            iterations.append(work.change.iteration(number, time.perf_counter() - began))
            if how.tell(iterations, work.now) or number == passes:
                break
            old = work.before
            spare = old if isinstance(old, Scratch) else files.enter_context(Scratch(folder, array.shape))
            work.before, work.now = work.now, spare
        files.pop_all()
    if isinstance(work.before, Scratch):
        work.before.close()
    return work.now


class _Planes:
    """What the engine reads and writes during a pass: planes of the padded grid.

    `before` is the probability before the pass, `now` the one after it, `change` what becomes of the one.
    """

    before: NDArray[Any] | Scratch
    now: Scratch
    change: Change

    def __init__(self, array: NDArray[Any], depth: int, how: Refinement) -> None:
        self._array, self._depth, self._how = array, depth, how
        self.padding = Padding((array.shape[0], depth, array.shape[2]))
        self._mean, self._sd = image_statistics(array)

    def image(self, first: int, stop: int) -> NDArray[np.float32]:
        """Return planes of the image, normalised."""
        return self.padding.pad_planes(
            lambda low, high: standardize(self._array[low:high, : self._depth], self._mean, self._sd), first, stop
        )

    def mask(self, first: int, stop: int) -> NDArray[np.float32]:
        """Return planes of the probability before the pass."""
        return self.padding.pad_planes(self._before, first, stop)

    def write(self, first: int, found: NDArray[np.float32]) -> None:
        """Take planes of the probability after the pass."""
        first, found = self.padding.unpad_planes(first, found)
        self.change.add(self._before(first, first + len(found)), self._how.hold(found, first))
        deeper = self._array.shape[1] - self._depth
        self.now.put(first, self._how.hold(np.pad(found, ((0, 0), (0, deeper), (0, 0))), first) if deeper else found)

    def _before(self, first: int, stop: int) -> NDArray[np.float32]:
        planes = self.before[first:stop][:, : self._depth]
        if self._how.keep is None or isinstance(self.before, Scratch):  # a pass has written what is kept already
            return planes.astype(np.float32, copy=False)
        return self._how.hold(planes.astype(np.float32), first)
