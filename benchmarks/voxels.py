"""Rivals that judge each voxel by filters around it: a random forest, and our pixel trees and pixel network.

The forest is the recipe that users have in ilastik, Labkit and Trainable Weka: scikit-image's features at scales from
3 to 23 µm, scikit-learn's trees. All see the image normalised, learn from 50,000 voxels of each of a few training
volumes, and take the threshold that gives the largest mean Dice on the last third of these when they learn from the
rest. Needs scikit-learn (requirements-dev.txt).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.feature import hessian_matrix_eigvals, multiscale_basic_features
from sklearn.ensemble import RandomForestClassifier

from micronet.data.dataset import Sample
from micronet.measure.overlap import overlap
from micronet.networks.kernels.boosting import logits
from micronet.networks.kernels.scale_space import default_scales, features
from micronet.networks.pixel_trees import train_pixel_trees
from micronet.training.teach.pixel import train_pixel_network

__all__ = ["LEARNERS", "Learner", "Rows", "VoxelMethod", "drawn", "teach"]

Array = NDArray[np.float32]
#: Planes begin .. end - 1, and which of their voxels, to features (voxels, features).
Features = Callable[[int, int, "NDArray[np.intp] | slice"], Array]
#: Reach of the forest's features, µm; scikit-image doubles from the first to the last.
FOREST_SCALES_UM = (3.2, 25.6)
TREES, VOXELS = 100, 50_000
_SLAB = 8
_THRESHOLDS = np.linspace(0.2, 0.8, 31)


@dataclass(frozen=True)
class Rows:
    """Some voxels of a volume: features (voxels, features), and whether each is lumen."""

    features: Array
    lumen: NDArray[np.bool_]


@dataclass(frozen=True)
class Learner:
    """`prepare` gives what makes features of some voxels; `fit` a function from these to probability."""

    prepare: Callable[[Sample], Features]
    fit: Callable[[Array, NDArray[np.bool_], int], Callable[[Array], Array]]


def _forest_features(sample: Sample) -> Features:
    """Give scikit-image's `multiscale_basic_features`, bit by bit, with eigenvalues only of the voxels asked for.

    Those of a whole volume take minutes.
    """
    first, last = (length / sample.volume.spacing_um[0] for length in FOREST_SCALES_UM)
    found = multiscale_basic_features(
        sample.normalized(), texture=False, sigma_min=first, sigma_max=last, workers=torch.get_num_threads()
    )

    def of(begin: int, end: int, which: NDArray[np.intp] | slice) -> Array:
        low, high = max(begin - 2, 0), min(end + 2, len(found))  # differences of differences look two planes far
        columns = []
        for scale in range(0, found.shape[-1], 2):
            smooth = np.ascontiguousarray(found[low:high, ..., scale])
            slopes = np.gradient(smooth)
            seconds = (np.gradient(slopes[a], axis=b) for a, b in combinations_with_replacement(range(3), 2))
            hessian = [each[begin - low : end - low].reshape(-1, 1, 1)[which] for each in seconds]
            columns += [found[begin:end, ..., scale + step].reshape(-1)[which] for step in (0, 1)]
            columns += list(hessian_matrix_eigvals(hessian).reshape(3, -1))
        return np.stack(columns, axis=-1)

    return of


def _forest(rows: Array, lumen: NDArray[np.bool_], seed: int) -> Callable[[Array], Array]:
    model = RandomForestClassifier(TREES, n_jobs=torch.get_num_threads(), random_state=seed, min_samples_leaf=3)
    model.fit(rows, lumen)
    return lambda asked: np.asarray(model.predict_proba(asked)[:, 1], np.float32)


def _our_features(sample: Sample) -> Features:
    image, spacing = sample.normalized(), sample.volume.spacing_um
    scales = default_scales(spacing)

    def of(begin: int, end: int, which: NDArray[np.intp] | slice) -> Array:
        found = features(image, scales, spacing, slice(begin, end))
        return np.ascontiguousarray(found.reshape(len(found), -1)[:, which].T)

    return of


def _trees(rows: Array, lumen: NDArray[np.bool_], seed: int) -> Callable[[Array], Array]:
    trees = train_pixel_trees(rows, lumen, default_scales((4.5,) * 3), seed=seed).trees
    return lambda asked: np.asarray(1 / (1 + np.exp(-logits(asked, trees))), np.float32)


def _network(rows: Array, lumen: NDArray[np.bool_], seed: int) -> Callable[[Array], Array]:
    network = train_pixel_network(rows, lumen, default_scales((4.5,) * 3), seed=seed)

    def probability(asked: Array) -> Array:
        with torch.no_grad():
            x = network.normalized(torch.from_numpy(asked))
            members = torch.sigmoid(network(x.expand(len(network.layer0.weight), -1, -1)))
        return np.asarray(members.mean(0).numpy(), np.float32)

    return probability


LEARNERS = {
    "random forest": Learner(_forest_features, _forest),
    "pixel trees": Learner(_our_features, _trees),
    "pixel network": Learner(_our_features, _network),
}


def drawn(learner: Learner, sample: Sample, voxels: int, seed: int) -> Rows:
    """Return random voxels of a volume."""
    of, lumen = learner.prepare(sample), sample.mask
    places = np.sort(np.random.default_rng([seed, lumen.size]).choice(lumen.size, min(voxels, lumen.size), False))
    found, plane = [], lumen[0].size
    for begin in range(0, len(lumen), _SLAB):
        end = min(begin + _SLAB, len(lumen))
        mine = places[np.searchsorted(places, begin * plane) : np.searchsorted(places, end * plane)]
        found.append(of(begin, end, mine - begin * plane))
    return Rows(np.concatenate(found), lumen.ravel()[places])


@dataclass(frozen=True)
class VoxelMethod:
    """What was learned, and the threshold."""

    learner: Learner
    probability: Callable[[Array], Array]
    threshold: float

    def dice(self, rows: Rows) -> float:
        """Return Dice on some voxels."""
        return overlap(self.probability(rows.features) > self.threshold, rows.lumen).f_score()

    def predict(self, sample: Sample) -> NDArray[np.bool_]:
        """Return the mask of a volume."""
        of, mask = self.learner.prepare(sample), np.empty(sample.mask.shape, np.bool_)
        for begin in range(0, len(mask), _SLAB):
            part = mask[begin : begin + _SLAB]
            part[:] = (self.probability(of(begin, begin + len(part), slice(None))) > self.threshold).reshape(part.shape)
        return mask


def teach(learner: Learner, rows: Sequence[Rows], seed: int) -> VoxelMethod:
    """Learn from voxels of at least two volumes."""

    def fit(some: Sequence[Rows]) -> Callable[[Array], Array]:
        return learner.fit(
            np.concatenate([each.features for each in some]), np.concatenate([each.lumen for each in some]), seed
        )

    held_out = max(1, len(rows) // 3)
    first = fit(rows[:-held_out])
    seen = [(first(each.features), each.lumen) for each in rows[-held_out:]]
    means = [np.mean([overlap(p > t, lumen).f_score() for p, lumen in seen]) for t in _THRESHOLDS]
    return VoxelMethod(learner, fit(rows), float(_THRESHOLDS[int(np.argmax(means))]))
