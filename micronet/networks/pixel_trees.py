"""Boosted trees on the scale-space features of a voxel: what a pixel network does, by other means.

They need no normalisation, learn from few voxels and are a second's work (kernels/boosting.py). The state dict is all
there is, plain float32 tensors: ``scales_um`` (scales,), ``trees.feature`` (trees, depth) of whole numbers, those of
features of scale_space.py or, after them, of tube responses (tubes.py; earlier weights ask for none),
``trees.threshold`` (trees, depth), ``trees.value`` (trees, 2**depth), ``trees.start`` (1,) and ``around_um`` (1,):
above 0, the features are those of the image evened over so many µm (evening.py). A logistic regression has no trees,
and ``trees.slope`` (features,).
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
from micronet.networks.by_voxel import ByVoxel
from micronet.networks.kernels.boosting import Trees, boost
from micronet.networks.kernels.scale_space import Part, feature_count, tree_sum
from micronet.networks.kernels.tubes import TUBES

__all__ = ["PixelTrees", "pixel_trees_for_state", "train_pixel_trees"]

#: More than any of these are no trees of ours; a file may hold anything. A leaf's number is a byte.
_MOST_SCALES, _MOST_TREES, _MOST_DEPTH = 32, 10_000, 8
_NAMES = ("scales_um", "trees.feature", "trees.threshold", "trees.value", "trees.start", "around_um")
_SLOPE = "trees.slope"
#: Longer surroundings are those of no microscope.
_MOST_UM = 1e6


@dataclass(frozen=True)
class PixelTrees(ByVoxel):
    """Features of a voxel in, lumen probability out.

    Parameters
    ----------
    scales : tuple of float
        Of the features, in µm.
    trees : Trees
    around_um : float
        Surroundings that the image is evened by first, as `micronet.networks.evening.evened` does; 0: it is not.
    """

    scales: tuple[float, ...]
    trees: Trees
    around_um: float = 0.0

    name = "pixel trees"

    def state_dict(self) -> OrderedDict[str, Tensor]:
        """Return plain float32 tensors, from which `pixel_trees_for_state` builds the same trees."""
        feature, threshold, value, start, slope = self.trees
        arrays = (np.asarray(self.scales), feature, threshold, value, np.asarray([start]), np.asarray([self.around_um]))
        named = dict(zip(_NAMES, arrays, strict=True)) | ({_SLOPE: slope} if len(slope) else {})
        return OrderedDict((name, torch.from_numpy(array.astype(np.float32))) for name, array in named.items())

    def look(
        self,
        seen: NDArray[np.float32],
        spacing_um: Sequence[float],
        out: NDArray[np.float32] | None = None,
        threads: int | None = None,
        within: Part = (slice(None), slice(None)),
    ) -> NDArray[np.float32]:
        """Return the same of an image, or a box of one, that is evened already; as `PixelNetwork.look` does."""
        return tree_sum(seen, self.scales, spacing_um, self.trees, out, threads, within)


def train_pixel_trees(
    features: NDArray[np.float32],
    lumen: NDArray[np.bool_ | np.float32],
    scales_um: Sequence[float],
    *,
    weight: NDArray[np.float32] | None = None,
    trees: int = 150,
    around_um: float = 0.0,
    places: NDArray[np.intp] | None = None,
    seed: int = 0,
) -> PixelTrees:
    """Fit boosted trees to features of annotated voxels; arguments as `training.teach.pixel.train_pixel_network`.

    Tube responses may follow the features (kernels/tubes.py). `lumen`, `weight` and `places` are as
    `micronet.networks.kernels.boosting.boost` takes them. `around_um` is kept with the trees, for features that are
    those of the evened image. The same seed gives the same trees.
    """
    found = boost(features, lumen, weight=weight, trees=trees, places=places, seed=seed)
    rounded = found._replace(start=float(np.float32(found.start)))  # as the state dict holds it
    return PixelTrees(tuple(float(np.float32(scale)) for scale in scales_um), rounded, float(np.float32(around_um)))


def pixel_trees_for_state(state: Mapping[str, Tensor]) -> PixelTrees:
    """Build the trees that a state dict belongs to, decided from its tensors alone.

    Raises
    ------
    InputError
        If tensors are missing, extra, of shapes that do not fit each other, not finite, too many, or ask for features
        that are not there.
    """
    names = (*_NAMES, _SLOPE) if _SLOPE in state else _NAMES
    if set(state) != set(names) or state["scales_um"].ndim != 1 or state["trees.feature"].ndim != 2:
        raise InputError(f"not pixel trees: {', '.join(_NAMES)} expected, found {', '.join(sorted(state)[:8])}")
    scales, (count, depth) = len(state["scales_um"]), state["trees.feature"].shape
    limits = ((scales, _MOST_SCALES), (max(count, _SLOPE in state), _MOST_TREES), (depth, _MOST_DEPTH))
    if any(not 0 < size <= most for size, most in limits):
        raise InputError(
            f"pixel trees on {scales} scales, {count} of depth {depth}; at most {_MOST_SCALES}, {_MOST_TREES} and "
            f"{_MOST_DEPTH} expected"
        )
    shapes = ((scales,), (count, depth), (count, depth), (count, 2**depth), (1,), (1,), (feature_count(scales),))
    for name, shape in zip(names, shapes, strict=False):
        if tuple(state[name].shape) != shape:
            raise InputError(f"not pixel trees: '{name}' is {tuple(state[name].shape)}, {shape} expected")
        if not torch.isfinite(state[name]).all():
            raise InputError(f"weights hold values that are not finite, first in '{name}'")
    arrays = [state[name].to(torch.float32).numpy() for name in names]
    asked, known = arrays[1], feature_count(scales) + TUBES
    if not (arrays[0] > 0).all():
        raise InputError("weights hold values that no pixel trees have, first in 'scales_um'")
    if (asked != np.round(asked)).any() or (asked < 0).any() or (asked >= known).any():
        raise InputError(f"'trees.feature' asks for features that are not among the {known}")
    if not 0 <= float(arrays[5][0]) <= _MOST_UM:
        raise InputError(f"'around_um' is {float(arrays[5][0]):g}; 0 to {_MOST_UM:g} expected")
    trees = Trees(asked.astype(np.int32), arrays[2], arrays[3], float(arrays[4][0]), *arrays[6:])
    return PixelTrees(tuple(arrays[0].tolist()), trees, float(arrays[5][0]))
