"""Boosted trees on the scale-space features of a voxel: what a pixel network does, by other means.

They need no normalisation, learn from few voxels and are a second's work (kernels/boosting.py). The state dict is all
there is, plain float32 tensors: ``scales_um`` (scales,), ``trees.feature`` (trees, depth) of whole numbers,
``trees.threshold`` (trees, depth), ``trees.value`` (trees, 2**depth) and ``trees.start`` (1,).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from micronet.core.errors import InputError
from micronet.networks.kernels.boosting import Trees, boost
from micronet.networks.kernels.scale_space import feature_count, tree_sum

__all__ = ["PixelTrees", "pixel_trees_for_state", "train_pixel_trees"]

#: More than any of these are no trees of ours; a file may hold anything. A leaf's number is a byte.
_MOST_SCALES, _MOST_TREES, _MOST_DEPTH = 32, 10_000, 8
_NAMES = ("scales_um", "trees.feature", "trees.threshold", "trees.value", "trees.start")


@dataclass(frozen=True)
class PixelTrees:
    """Features of a voxel in, lumen probability out.

    Parameters
    ----------
    scales : tuple of float
        Of the features, in µm.
    trees : Trees
    """

    scales: tuple[float, ...]
    trees: Trees

    name = "pixel trees"

    def state_dict(self) -> OrderedDict[str, Tensor]:
        """Return plain float32 tensors, from which `pixel_trees_for_state` builds the same trees."""
        feature, threshold, value, start = self.trees
        arrays = (np.asarray(self.scales), feature, threshold, value, np.asarray([start]))
        tensors = (torch.from_numpy(array.astype(np.float32)) for array in arrays)
        return OrderedDict(zip(_NAMES, tensors, strict=True))

    def predict(
        self,
        image: NDArray[np.float32],
        spacing_um: Sequence[float],
        out: NDArray[np.float32] | None = None,
        threads: int | None = None,
    ) -> NDArray[np.float32]:
        """Return the lumen probability of every voxel, as `micronet.networks.pixel.PixelNetwork.predict` does."""
        return tree_sum(image, self.scales, spacing_um, self.trees, out, threads)


def train_pixel_trees(
    features: NDArray[np.float32],
    lumen: NDArray[np.bool_],
    scales_um: Sequence[float],
    *,
    trees: int = 150,
    seed: int = 0,
    threads: int | None = None,
) -> PixelTrees:
    """Fit boosted trees to features of annotated voxels; arguments as `training.teach.pixel.train_pixel_network`.

    The same seed gives the same trees, whatever the threads.
    """
    found = boost(features, lumen, trees=trees, seed=seed, threads=threads)
    rounded = found._replace(start=float(np.float32(found.start)))  # as the state dict holds it
    return PixelTrees(tuple(float(np.float32(scale)) for scale in scales_um), rounded)


def pixel_trees_for_state(state: Mapping[str, Tensor]) -> PixelTrees:
    """Build the trees that a state dict belongs to, decided from its tensors alone.

    Raises
    ------
    InputError
        If tensors are missing, extra, of shapes that do not fit each other, not finite, too many, or ask for features
        that are not there.
    """
    if set(state) != set(_NAMES) or state["scales_um"].ndim != 1 or state["trees.feature"].ndim != 2:
        raise InputError(f"not pixel trees: {', '.join(_NAMES)} expected, found {', '.join(sorted(state)[:8])}")
    scales, (count, depth) = len(state["scales_um"]), state["trees.feature"].shape
    limits = ((scales, _MOST_SCALES), (count, _MOST_TREES), (depth, _MOST_DEPTH))
    if any(not 0 < size <= most for size, most in limits):
        raise InputError(
            f"pixel trees on {scales} scales, {count} of depth {depth}; at most {_MOST_SCALES}, {_MOST_TREES} and "
            f"{_MOST_DEPTH} expected"
        )
    shapes = ((scales,), (count, depth), (count, depth), (count, 2**depth), (1,))
    for name, shape in zip(_NAMES, shapes, strict=True):
        if tuple(state[name].shape) != shape:
            raise InputError(f"not pixel trees: '{name}' is {tuple(state[name].shape)}, {shape} expected")
        if not torch.isfinite(state[name]).all():
            raise InputError(f"weights hold values that are not finite, first in '{name}'")
    arrays = [state[name].to(torch.float32).numpy() for name in _NAMES]
    asked = arrays[1]
    if not (arrays[0] > 0).all():
        raise InputError("weights hold values that no pixel trees have, first in 'scales_um'")
    if (asked != np.round(asked)).any() or asked.min() < 0 or asked.max() >= feature_count(scales):
        raise InputError(f"'trees.feature' asks for features that are not among the {feature_count(scales)}")
    trees = Trees(asked.astype(np.int32), arrays[2], arrays[3], float(arrays[4][0]))
    return PixelTrees(tuple(arrays[0].tolist()), trees)
