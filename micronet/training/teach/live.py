"""An image that is taught stroke by stroke: what does not depend on the strokes is computed once and kept.

A stroke is answered by pixel trees alone, plane by plane, those that the person looks at first; all learners, chosen by
cross-validation, take their time when asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from micronet.core.errors import InputError
from micronet.core.ram import available_memory
from micronet.core.threads import Team
from micronet.core.volume import Volume
from micronet.networks.evening import planes_are_thick
from micronet.networks.kernels.boosting import Trees, add_trees
from micronet.networks.kernels.scale_space import default_scales, feature_count, features
from micronet.networks.kernels.tubes import TUBES, with_tubes
from micronet.networks.normalize import log_intensity, normalize_image
from micronet.networks.pixel_trees import PixelTrees, train_pixel_trees
from micronet.networks.taught import Member, Taught
from micronet.training.teach.course import Course, Progress, teach
from micronet.training.teach.learners import corrected_for, drawn_of, places_of, seen_planes
from micronet.training.teach.lesson import Choice, Lesson
from micronet.training.teach.result import looked

__all__ = ["Answer", "LiveImage"]

Array = NDArray[np.float32]
#: Features of a plane: blocks of (features, voxels).
_Plane = list[Array]
#: Receives the first plane and the probability (planes, y_crop or Y, X) from there on; may raise to stop.
OnPlanes = Callable[[int, Array], None]

#: Planes whose features are computed, or trees applied, at a time.
_SLAB = 8
#: Voxels of a plane whose features lie together: what trees go through again and again stays in the second cache.
_BLOCK = 2048
#: Share of the memory that is available now which features may be kept in.
_SHARE = 0.25


class Answer(NamedTuple):
    """What was learned from a lesson, and what it says of the image: both (Z, y_crop or Y, X)."""

    course: Course
    lesson: Lesson
    probability: Array
    spread: Array | None


class LiveImage:
    """An image to learn on again and again.

    Parameters
    ----------
    volume : Volume
        Intensities; without a spacing voxels are taken for cubes of 1 µm.
    log : bool
        Take the logarithm first.
    y_crop : int, optional
        Only depths ``[:, :y_crop, :]`` are learned from and looked at; the whole volume is normalised.
    most_bytes : int, optional
        What features may be kept in; default: a quarter of the available memory.

    Raises
    ------
    InputError
        If the volume cannot be normalised, or the depth is out of range.
    """

    def __init__(
        self, volume: Volume, *, log: bool = False, y_crop: int | None = None, most_bytes: int | None = None
    ) -> None:
        depth = volume.shape[1] if y_crop is None else y_crop
        if not 0 < depth <= volume.shape[1]:
            raise InputError(f"the depth must lie in 1..{volume.shape[1]} (the Y axis), found {y_crop}")
        self.log, self.depth = log, depth
        image = normalize_image(log_intensity(volume.array) if log else volume.array)
        self.image = np.ascontiguousarray(image[:, :depth])
        self.spacing_um = volume.spacing_um or (1.0, 1.0, 1.0)
        self._scales = tuple(float(np.float32(scale)) for scale in default_scales(self.spacing_um))
        if most_bytes is None:
            most_bytes = int(_SHARE * (available_memory() or 0))
        self._tubes = 0 if planes_are_thick(self.spacing_um) else TUBES
        each = 4 * (feature_count(len(self._scales)) + self._tubes) * self.image[0].size
        self._most_planes = most_bytes // each
        self._kept: dict[int, _Plane] = {}

    def lesson(self, labels: NDArray[np.integer]) -> Lesson:
        """Return what is painted as a lesson.

        Parameters
        ----------
        labels : ndarray of whole numbers, of the volume's shape
            0 not annotated, 1 lumen, 2 background; it is copied.

        Raises
        ------
        InputError
            If the shape is another, a class is missing, a label is unknown or every voxel is annotated.
        """
        if labels.ndim != 3 or labels[:, : self.depth].shape != self.image.shape:
            raise InputError(f"what is painted has shape {labels.shape}, the image {self.image.shape}")
        cropped = labels[:, : self.depth]
        for plane in cropped:
            if plane.size and not 0 <= plane.min() <= plane.max() <= 2:
                value = plane.max() if plane.max() > 2 else plane.min()
                raise InputError(f"label {value} is unknown: paint lumen with label 1, background with label 2")
        lesson = Lesson(self.image, np.array(cropped, np.uint8), self.spacing_um)
        counts = np.bincount(lesson.labels.ravel(), minlength=3)
        missing = [f"{name} (label {value})" for value, name in ((1, "lumen"), (2, "background")) if not counts[value]]
        if missing:
            raise InputError(f"paint some {' and some '.join(missing)}")
        if not counts[0]:
            raise InputError("every voxel is painted, nothing is left to find")
        return lesson

    def by_trees(self, lesson: Lesson, *, around: int = 0, seed: int = 0, on_planes: OnPlanes | None = None) -> Answer:
        """Learn pixel trees and ask them about every voxel.

        Parameters
        ----------
        lesson : Lesson
            As `lesson` gives it.
        around : int
            The plane to begin with; then those nearest to it.
        seed : int
        on_planes : callable, optional
            As `OnPlanes`.
        """
        tell = on_planes or (lambda first, found: None)
        threads = torch.get_num_threads()
        found, drawn = self._painted(lesson), drawn_of(np.arange(len(lesson.lumen)), seed)
        places = places_of(lesson)
        trees = train_pixel_trees(
            found[drawn],
            lesson.lumen[drawn],
            self._scales,
            places=None if places is None else places[drawn],
            seed=seed,
        )
        tell(0, np.empty((0, *self.image.shape[1:]), np.float32))  # a chance to stop
        trees = self._for_the_volume(trees, lesson)
        probability = np.empty(self.image.shape, np.float32)
        with Team(threads) as team:
            for first, stop in _outwards(len(self.image), around):
                self._apply(trees.trees, first, stop, probability, team)
                tell(first, probability[first:stop])
        network = Taught([Member("trees", trees)], self.spacing_um, logarithm=self.log).eval()
        return Answer(Course(network, Choice(("pixel trees",), {}, "")), lesson, probability, None)

    def by_all(self, lesson: Lesson, *, seed: int = 0, on_progress: Progress | None = None) -> Answer:
        """Choose between all learners, teach those, and ask them about every voxel; arguments as `course.teach`."""
        course = teach(lesson, seed, on_progress)
        course.network.logarithm = self.log
        return Answer(course, lesson, *looked(course.network, lesson))

    def _painted(self, lesson: Lesson) -> Array:
        """Return the features of the painted voxels (voxels, features), in the order of the array."""
        parts = []
        for z in np.flatnonzero(lesson.annotated.any(axis=(1, 2))):
            painted = lesson.annotated[z].ravel()
            parts += [
                block[:, painted[at : at + _BLOCK]].T
                for at, block in zip(range(0, len(painted), _BLOCK), self._plane(int(z)), strict=True)
            ]
        return np.ascontiguousarray(np.concatenate(parts))

    def _for_the_volume(self, trees: PixelTrees, lesson: Lesson) -> PixelTrees:
        """Return trees as `learners.TaughtTrees.for_the_volume` corrects them, from features that are kept."""
        if lesson.of_slices:
            return trees
        planes = seen_planes(len(self.image))
        seen = np.empty((len(planes), self.image[0].size), np.float32)
        for out, z in zip(seen, planes, strict=True):
            _ask(self._plane(z), trees.trees, out)
        return corrected_for(trees, seen, float(lesson.lumen.mean()))

    def _apply(self, trees: Trees, first: int, stop: int, probability: Array, team: Team) -> None:
        """Write what trees say of some planes."""
        slab = self._planes(first, stop)

        def some(number: int) -> None:
            for z in range(first + number, stop, team.threads):
                _ask(slab[z - first], trees, probability[z].reshape(-1))

        team.run(some, [(number,) for number in range(team.threads)])

    def _plane(self, z: int) -> _Plane:
        """Return the features of one plane, computed with its neighbours where they will be kept."""
        if z in self._kept:
            return self._kept[z]
        first = z - z % _SLAB
        if len(self._kept) + _SLAB <= self._most_planes:
            return self._planes(first, min(first + _SLAB, len(self.image)))[z - first]
        return self._computed(z, z + 1)[0]

    def _planes(self, first: int, stop: int) -> list[_Plane]:
        """Return the features of each of some planes."""
        if all(z in self._kept for z in range(first, stop)):
            return [self._kept[z] for z in range(first, stop)]
        found = self._computed(first, stop)
        if len(self._kept) + len(found) <= self._most_planes:
            self._kept |= dict(zip(range(first, stop), found, strict=True))
        return found

    def _computed(self, first: int, stop: int) -> list[_Plane]:
        slab = features(self.image, self._scales, self.spacing_um, slice(first, stop), torch.get_num_threads())
        voxels = self.image[0].size
        flat = slab.reshape(len(slab), -1)
        if self._tubes:
            flat = with_tubes(flat)
        return [
            [np.ascontiguousarray(flat[:, at : min(at + _BLOCK, end)]) for at in range(end - voxels, end, _BLOCK)]
            for end in range(voxels, flat.shape[1] + 1, voxels)
        ]


def _ask(plane: _Plane, trees: Trees, out: Array) -> None:
    """Write the probability of each voxel of a plane."""
    for at, block in zip(range(0, len(out), _BLOCK), plane, strict=True):
        found = out[at : at + _BLOCK]
        add_trees(block, trees, np.empty(len(found), np.uint8), found)
    np.negative(out, out=out)
    np.exp(out, out=out)
    out += 1
    np.reciprocal(out, out=out)


def _outwards(planes: int, around: int) -> Iterator[tuple[int, int]]:
    """Yield slabs that cover all planes, the one around a plane first, then those nearest to it."""
    slabs = [(first, min(first + _SLAB, planes)) for first in range(0, planes, _SLAB)]
    yield from sorted(slabs, key=lambda slab: abs(slab[0] + slab[1] - 1 - 2 * around))
