"""Features of the voxels that a lesson is learned from: learners that look at the same image share them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from micronet.networks.evening import planes_are_thick
from micronet.networks.kernels.scale_space import default_scales, feature_count, features, features_at
from micronet.networks.kernels.tubes import TUBES, with_tubes
from micronet.training.teach.beside import corrections
from micronet.training.teach.lesson import Lesson, Mask

__all__ = ["MOST_FITTED", "FeaturesOf", "VoxelFeatures", "feature_bytes"]

Array = NDArray[np.float32]

#: Planes, one after the other, of which all features are held at once (`features_at`).
_SLAB = 16
#: Voxels that are fitted to, at most: neighbours tell the same, and a large slice would take minutes.
MOST_FITTED = 60_000
#: Bytes of each while trees are fitted, and logistic regressions, in float64.
_TREES, _LINEAR = 400, 1200


@dataclass(frozen=True, eq=False)
class VoxelFeatures:
    """Features of the voxels of a lesson; scale and surroundings as weights hold them.

    `found` is (voxels, features), `others` the same of the other volumes, `agreed` of unannotated voxels of corrected
    slices.
    """

    scales: tuple[float, ...]
    around_um: float
    found: Array
    others: tuple[Array, ...]
    agreed: Array

    def learned(self, lesson: Lesson, learned: Mask) -> tuple[Array, Mask]:
        """Return features and truth of some voxels of a lesson and of all of its others."""
        found, lumen = self.found[learned], lesson.lumen[learned]
        if not self.others:
            return found, lumen
        return (
            np.concatenate([found, *self.others]),
            np.concatenate([lumen, *(other.lumen for other in lesson.others)]),
        )

    def of(self, scales: tuple[float, ...]) -> VoxelFeatures:
        """Return those of the first scales, in the same memory."""
        if scales == self.scales:
            return self
        some = slice(feature_count(len(scales)))
        others = tuple(other[:, some] for other in self.others)
        return replace(self, scales=scales, found=self.found[:, some], others=others, agreed=self.agreed[:, some])


class FeaturesOf:
    """They are computed once, however often a lesson is learned from, and not again where another learner has them.

    `tubes` adds those where planes are not thick.
    """

    def __init__(self, scales: int | None = None, around: float = 0.0, *, tubes: bool = False) -> None:
        self._count, self._around, self._tubes = scales, around, tubes
        # Those that are shared, and of them those that are looked at.
        self._seen: tuple[Lesson, VoxelFeatures, VoxelFeatures] | None = None

    def __call__(self, lesson: Lesson) -> VoxelFeatures:
        """Return those of the voxels of a lesson."""
        if self._seen is None or self._seen[0] is not lesson:
            scales = tuple(float(np.float32(scale)) for scale in default_scales(lesson.spacing_um)[: self._count])
            around_um = float(np.float32(self._around * min(lesson.spacing_um)))
            tubes = self._tubes and not planes_are_thick(lesson.spacing_um)
            whole = lesson.features.get((around_um, tubes))
            # Tube responses follow the last scale, and are of all scales.
            if whole is None or (whole.scales != scales if tubes else whole.scales[: len(scales)] != scales):
                whole = lesson.features[around_um, tubes] = _computed(lesson, scales, around_um, tubes)
            self._seen = lesson, whole, whole.of(scales)
        return self._seen[2]


def _computed(lesson: Lesson, scales: tuple[float, ...], around_um: float, tubes: bool) -> VoxelFeatures:
    found, *others = (_features_in(one, scales, around_um) for one in (lesson, *lesson.others))
    agreed = np.empty((0, found.shape[1]), np.float32)
    if lesson.corrections is not None:
        image = lesson.seen.evened(around_um)
        agreed = _by_plane(image, lesson.corrections.agreed, scales, lesson.spacing_um)
    if tubes:
        found, agreed, *others = (with_tubes(one.T).T for one in (found, agreed, *others))
    return VoxelFeatures(scales, around_um, found, tuple(others), agreed)


def _features_in(lesson: Lesson, scales: tuple[float, ...], around_um: float) -> Array:
    """Return the features of a volume's annotated voxels; scales and surroundings are lengths, whatever its voxels."""
    return features_at(
        lesson.seen.evened(around_um), lesson.annotated, scales, lesson.spacing_um, torch.get_num_threads()
    )


def _by_plane(image: Array, where: Mask, scales: Sequence[float], spacing_um: Sequence[float]) -> Array:
    """Return the features of some voxels, (voxels, features), holding one plane at a time."""
    threads = torch.get_num_threads()
    planes = np.flatnonzero(where.any(axis=(1, 2)))
    seen = [features(image, scales, spacing_um, slice(z, z + 1), threads)[:, 0, where[z]] for z in planes]
    return np.concatenate(seen, axis=1).T


def feature_bytes(
    labels: NDArray[np.uint8], spacing_um: Sequence[float], others: Sequence[NDArray[np.uint8]] = ()
) -> tuple[int, int]:
    """Return about how many bytes the features of a lesson take that `course.default_learners` learn from.

    Parameters
    ----------
    labels : ndarray of uint8, shape (Z, Y, X)
        0 not annotated.
    spacing_um : (z, y, x)
    others : sequence of ndarray of uint8, shape (Z, Y, X)
        Labels of the other volumes.

    Returns
    -------
    held, work : int
        All of them, of the image and of the evened image; and what it takes beside them to compute them, or to fit to
        them.
    """
    scales = feature_count(len(default_scales(spacing_um)))
    each, fitted = (scales, _LINEAR) if planes_are_thick(spacing_um) else (scales + TUBES, _TREES)
    counts = [int(np.count_nonzero(one)) for one in (labels, *others)]
    corrected, count = corrections(labels), sum(counts)
    agreed = 0 if corrected is None else int(np.count_nonzero(corrected.agreed))
    slab = max(min(_SLAB, _together(one)) * one[0].size for one in (labels, *others))
    copied = counts[0] + (count if others else 0)
    computing = 4 * scales * max(slab, count)
    fitting = 4 * each * (copied + agreed) + fitted * min(count, MOST_FITTED)
    return 2 * 4 * each * (count + agreed), max(computing, fitting)


def _together(labels: NDArray[np.uint8]) -> int:
    """Return the planes of the longest run of planes with labels."""
    planes = np.flatnonzero(labels.any(axis=(1, 2)))
    return max(len(run) for run in np.split(planes, np.flatnonzero(np.diff(planes) > 1) + 1))
