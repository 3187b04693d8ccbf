"""The learners of `training.teach.lesson`: pixel trees, a pixel network, and a µ-Net on the volume made isotropic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from micronet.core.regrid import isotropic_shape, isotropic_step, resampled
from micronet.core.volume import Volume, upright
from micronet.data.dataset import Sample
from micronet.networks.kernels.boosting import logits
from micronet.networks.kernels.scale_space import features
from micronet.networks.kernels.tubes import with_tubes
from micronet.networks.models import MINIMUM_AXIS, MicroNet
from micronet.networks.pixel import PixelNetwork
from micronet.networks.pixel_trees import PixelTrees, train_pixel_trees
from micronet.networks.taught import Member, Taught
from micronet.training.recipe import RECIPES
from micronet.training.teach.lesson import Lesson, Mask
from micronet.training.teach.linear import train_linear
from micronet.training.teach.pixel import train_pixel_network
from micronet.training.teach.prevalence import logit_shift, prevalence
from micronet.training.teach.voxel_features import MOST_FITTED, FeaturesOf, VoxelFeatures
from micronet.training.trainer import StepReport, Trainer

__all__ = [
    "IsotropicGrid",
    "LinearLearner",
    "MicroNetLearner",
    "PixelLearner",
    "TaughtMicroNet",
    "TaughtPixelNetwork",
    "TaughtTrees",
    "TreesLearner",
    "corrected_for",
    "drawn_of",
    "part_of",
    "places_of",
    "seen_planes",
    "without_corrections",
]

Array = NDArray[np.float32]

#: Planes from which it is told how common lumen is.
_SEEN_PLANES = 12


@dataclass(frozen=True)
class TaughtTrees:
    """Pixel trees, or a logistic regression, after a lesson, with the features of the lesson's voxels."""

    trees: PixelTrees
    lesson: Lesson
    features: Array

    def at(self, asked: Mask) -> Array:
        """Return the probability of some voxels of the lesson, from features that are there already."""
        return np.asarray(1 / (1 + np.exp(-logits(self.features[asked], self.trees.trees))), np.float32)

    def everywhere(self) -> Array:
        """Return the probability of every voxel."""
        return self.trees.predict(self.lesson.image, self.lesson.spacing_um)

    def members(self) -> list[Member]:
        """Return these trees, corrected for how common lumen is."""
        return [Member("trees", self.for_the_volume().trees)]

    def for_the_volume(self) -> TaughtTrees:
        """Return these trees corrected for how common lumen is in the volume, where strokes were annotated."""
        if self.lesson.of_slices:
            return self
        image = self.lesson.seen.evened(self.trees.around_um)
        probability = np.concatenate([self._said_of(image, z) for z in seen_planes(len(image))])
        return replace(self, trees=corrected_for(self.trees, probability, self.lesson.lumen_share))

    def _said_of(self, image: Array, z: int) -> Array:
        """Return what they say of a plane of an image that is evened already, (voxels,)."""
        plane = features(image, self.trees.scales, self.lesson.spacing_um, slice(z, z + 1))
        rows = with_tubes(plane.reshape(len(plane), -1)).T
        return np.asarray(1 / (1 + np.exp(-logits(rows, self.trees.trees))), np.float32)


def seen_planes(count: int) -> range:
    """Return the planes, of so many, from which it is told how common lumen is."""
    step = max(1, count // _SEEN_PLANES)
    return range(step // 2, count, step)


def corrected_for(trees: PixelTrees, seen: Array, taught: float) -> PixelTrees:
    """Return trees for which lumen is as common as what they say of `seen` tells, not as the share that was taught."""
    shift = logit_shift(prevalence(seen, taught), taught)
    return replace(trees, trees=trees.trees._replace(start=float(np.float32(trees.trees.start + shift))))


class TreesLearner:
    """Fits pixel trees to features and, where planes are not thick, tube responses.

    Parameters
    ----------
    trees : int
    scales : int, optional
        So many of the default scales, the finest; by default all.
    around : float
        Surroundings that the image is evened by first, in units of the finest spacing; 0: it is not.
    """

    def __init__(self, trees: int = 150, scales: int | None = None, around: float = 0.0) -> None:
        self.trees, self.around = trees, around
        self.name = "pixel trees" + (", evened" if around else "") + ("" if scales is None else f", {scales} scales")
        self._features = FeaturesOf(scales, around, tubes=True)

    def learn(self, lesson: Lesson, learned: Mask, seed: int) -> TaughtTrees:
        """Fit trees to some voxels of the lesson."""
        seen, beside = self._features(lesson), lesson.corrections
        if beside is None or not (learned & ~beside.whole).any() or not _both(lesson.lumen[learned & beside.whole]):
            found, lumen = seen.learned(lesson, learned)
            drawn, places = drawn_of(np.arange(len(found)), seed), places_of(lesson, learned)
            places = None if places is None else places[drawn]
            return TaughtTrees(self._fit(seen, found[drawn], lumen[drawn], seed, places=places), lesson, seen.found)
        whole, corrected = (np.flatnonzero(learned & which) for which in (beside.whole, ~beside.whole))
        slices, strokes = drawn_of(whole, seed), drawn_of(corrected, seed)
        first = self._fit(seen, seen.found[slices], lesson.lumen[slices], seed)
        agreed = 1 / (1 + np.exp(-logits(seen.agreed, first.trees)))
        rows = np.concatenate([seen.found[slices], seen.found[strokes], seen.agreed])
        truth = np.concatenate([lesson.lumen[slices], lesson.lumen[strokes], agreed]).astype(np.float32)
        each = np.array([len(whole) / len(slices), len(corrected) / len(strokes), beside.agreed_weight])
        weight = np.repeat(each, (len(slices), len(strokes), len(agreed)))
        weight *= len(slices) / weight.sum()
        for found, other in zip(seen.others, lesson.others, strict=True):
            drawn = drawn_of(np.arange(len(found)), seed)
            rows = np.concatenate([rows, found[drawn]])
            truth = np.concatenate([truth, other.lumen[drawn].astype(np.float32)])
            weight = np.concatenate([weight, np.ones(len(drawn))])
        return TaughtTrees(self._fit(seen, rows, truth, seed, weight.astype(np.float32)), lesson, seen.found)

    def _fit(
        self,
        seen: VoxelFeatures,
        rows: Array,
        lumen: Any,
        seed: int,
        weight: Array | None = None,
        places: NDArray[np.intp] | None = None,
    ) -> PixelTrees:
        return train_pixel_trees(
            rows,
            lumen,
            seen.scales,
            weight=weight,
            trees=self.trees,
            around_um=seen.around_um,
            places=places,
            seed=seed,
        )


class LinearLearner:
    """Fits a logistic regression to features: it errs elsewhere than trees do.

    Beside whole slices corrections are not learned, as of `MicroNetLearner`.

    Parameters
    ----------
    around : float
        Surroundings that the image is evened by first, in units of the finest spacing; 0: it is not.
    """

    def __init__(self, around: float = 0.0) -> None:
        self.around = around
        self.name = "logistic regression" + (", evened" if around else "")
        self._features = FeaturesOf(around=around)

    def learn(self, lesson: Lesson, learned: Mask, seed: int) -> TaughtTrees:
        """Fit it to some voxels of the lesson."""
        seen = self._features(lesson)
        found, lumen = seen.learned(lesson, without_corrections(lesson, learned))
        drawn = drawn_of(np.arange(len(found)), seed)
        fitted = train_linear(found[drawn], lumen[drawn], seen.scales, around_um=seen.around_um)
        return TaughtTrees(fitted, lesson, seen.found)


def places_of(lesson: Lesson, learned: Mask | None = None) -> NDArray[np.intp] | None:
    """Return where some voxels of a lesson, or all, and those of its other volumes lie: the number of a cube for each.

    None where slices were annotated: these show all that there is, and trees do better if each sees all of it.
    """
    if lesson.of_slices:
        return None
    own = lesson.places if learned is None else lesson.places[learned]
    numbers, count = [], 0
    for cubes in (own, *(other.places for other in lesson.others)):
        found, number = np.unique(cubes, return_inverse=True)
        numbers.append(number + count)
        count += len(found)
    return np.concatenate(numbers)


def drawn_of(places: NDArray[np.intp], seed: int) -> NDArray[np.intp]:
    """Return places, or so many of them as trees are fitted to at most."""
    if len(places) <= MOST_FITTED:
        return places
    return np.sort(np.random.default_rng([seed, 5]).choice(places, MOST_FITTED, replace=False))


def _both(lumen: Mask) -> bool:
    return bool(lumen.any() and not lumen.all())


@dataclass(frozen=True)
class TaughtPixelNetwork:
    """A pixel network after a lesson, with the features of the lesson's voxels."""

    network: PixelNetwork
    lesson: Lesson
    features: Array

    def at(self, asked: Mask) -> Array:
        """Return the probability of some voxels of the lesson, from features that are there already."""
        with torch.no_grad():
            x = self.network.normalized(torch.from_numpy(self.features[asked]))
            members = torch.sigmoid(self.network(x.expand(len(self.network.layer0.weight), -1, -1)))
            return np.asarray(members.mean(0).numpy(), np.float32)

    def everywhere(self) -> Array:
        """Return the probability of every voxel."""
        return self.network.predict(self.lesson.image, self.lesson.spacing_um)

    def members(self) -> list[Member]:
        """Return the network."""
        return [Member("pixel", self.network)]


class PixelLearner:
    """Trains a pixel network."""

    def __init__(self, members: int = 3, steps: int = 400, name: str = "pixel network") -> None:
        self.members, self.steps, self.name = members, steps, name
        self._features = FeaturesOf()

    def learn(self, lesson: Lesson, learned: Mask, seed: int) -> TaughtPixelNetwork:
        """Train on some voxels of the lesson."""
        seen = self._features(lesson)
        network = train_pixel_network(
            *seen.learned(lesson, learned), seen.scales, members=self.members, steps=self.steps, seed=seed
        )
        return TaughtPixelNetwork(network, lesson, seen.found)


@dataclass(frozen=True)
class TaughtMicroNet:
    """A µ-Net, or a µr-Net with the pixel members that it starts from, after a lesson."""

    member: Member
    lesson: Lesson
    starts: tuple[Member, ...] = ()

    @cached_property
    def probability(self) -> Array:
        """What it says of every voxel."""
        return Taught(self.members(), self.lesson.spacing_um).predict(self.lesson.image, self.lesson.spacing_um)

    def at(self, asked: Mask) -> Array:
        """Return the probability of some voxels of the lesson."""
        return self.probability[self.lesson.annotated][asked]

    def everywhere(self) -> Array:
        """Return the probability of every voxel."""
        return self.probability

    def members(self) -> list[Member]:
        """Return the network, with the grid that it looks at, after those that it starts from."""
        return [*self.starts, self.member]


class MicroNetLearner:
    """Trains a µ-Net on the volume, resampled to an isotropic grid and padded where it is thin.

    Beside whole slices corrections are not learned: they are errors of others, and no sample of the volume.

    Parameters
    ----------
    steps : int
    most_voxels : int
        The isotropic grid is as fine as the finest spacing, but has no more voxels than these.
    around : float
        Surroundings that the image is evened by first, in units of the finest spacing; 0: it is not.
    on_step : callable, optional
        Receives the report of every step; may raise to stop.
    """

    def __init__(
        self,
        steps: int = 120,
        most_voxels: int = 2_000_000,
        around: float = 0.0,
        on_step: Callable[[StepReport], None] | None = None,
    ) -> None:
        self.steps, self.most_voxels, self.around, self.on_step = steps, most_voxels, around, on_step
        self.name = "u-net" + (", evened" if around else "")

    def learn(self, lesson: Lesson, learned: Mask, seed: int) -> TaughtMicroNet:
        """Train on some voxels of the lesson, and all of the others'."""
        grid = IsotropicGrid.of(lesson, self.most_voxels, self.around)
        samples = [grid.sample(one) for one in (part_of(lesson, without_corrections(lesson, learned)), *lesson.others)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = MicroNet()
        trainer = Trainer(network, samples, (), RECIPES["default"], seed)
        trainer.begin(-(-self.steps // len(samples)))  # so many times all volumes
        trainer.run(self.on_step or (lambda report: None), lambda report: None)
        member = Member("unet", network.eval(), step_um=grid.step_um, around_um=grid.around_um)
        return TaughtMicroNet(member, lesson)


def without_corrections(lesson: Lesson, learned: Mask) -> Mask:
    """Return those voxels that lie in whole slices, if these have both classes; else all."""
    beside = lesson.corrections
    return learned & beside.whole if beside is not None and _both(lesson.lumen[learned & beside.whole]) else learned


def part_of(lesson: Lesson, learned: Mask) -> Lesson:
    """Return a lesson of some of its voxels."""
    labels = np.zeros_like(lesson.labels)
    labels[lesson.annotated] = np.where(learned, lesson.labels[lesson.annotated], 0)
    return replace(lesson, labels=labels)


class IsotropicGrid(NamedTuple):
    """The grid on which a µ-Net or µr-Net looks at a lesson, as weights hold it."""

    step_um: float
    around_um: float

    @classmethod
    def of(cls, lesson: Lesson, most_voxels: int, around: float) -> IsotropicGrid:
        """Return the grid for so many voxels at most, and surroundings in units of the finest spacing."""
        step_um = isotropic_step(lesson.labels.shape, lesson.spacing_um, most_voxels)
        return cls(float(np.float32(step_um)), float(np.float32(around * min(lesson.spacing_um))))

    def array(self, array: Array, spacing_um: Sequence[float]) -> Array:
        """Return a volume on the grid, its axes long enough for a µ-Net."""
        return _padded(resampled(array, isotropic_shape(array.shape, spacing_um, self.step_um)))

    def sample(self, lesson: Lesson) -> Sample:
        """Return the image and the labels of a lesson, on the grid."""
        image = self.array(lesson.seen.normalized(self.around_um), lesson.spacing_um)
        labels = _nearest(lesson.labels, isotropic_shape(lesson.labels.shape, lesson.spacing_um, self.step_um))
        labels = np.pad(labels, [(0, n - m) for n, m in zip(image.shape, labels.shape, strict=True)])
        sample = Sample.of("volume", Volume(image, upright()), labels == 1, labels > 0)
        # The image is normalised already: what was added to fill it up must not count.
        return replace(sample, mean=0.0, sd=1.0)


def _nearest(labels: NDArray[np.uint8], shape: Sequence[int]) -> NDArray[np.uint8]:
    places = [
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.intp), old - 1)
        for old, new in zip(labels.shape, shape, strict=True)
    ]
    return labels[np.ix_(*places)]


def _padded(image: Array) -> Array:
    """Return an image whose axes are long enough for a µ-Net: it is reflected at its end, as often as that takes."""
    return np.pad(image, [(0, max(0, MINIMUM_AXIS - length)) for length in image.shape], mode="symmetric")
