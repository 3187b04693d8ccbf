"""The learners of `training.teach.lesson`: pixel trees, a pixel network, and a µ-Net on the volume made isotropic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from micronet.core.regrid import isotropic_shape, isotropic_step, resampled
from micronet.core.volume import Volume, upright
from micronet.data.dataset import Sample
from micronet.networks.kernels.boosting import logits
from micronet.networks.kernels.scale_space import default_scales, features, features_at
from micronet.networks.models import MINIMUM_AXIS, MicroNet
from micronet.networks.pixel import PixelNetwork
from micronet.networks.pixel_trees import PixelTrees, train_pixel_trees
from micronet.networks.taught import Member, Taught
from micronet.training.recipe import RECIPES
from micronet.training.teach.lesson import Lesson, Mask
from micronet.training.teach.pixel import train_pixel_network
from micronet.training.teach.prevalence import annotates_slices, logit_shift, prevalence
from micronet.training.trainer import StepReport, Trainer

__all__ = [
    "SEEN_PLANES",
    "MicroNetLearner",
    "PixelLearner",
    "TaughtMicroNet",
    "TaughtPixelNetwork",
    "TaughtTrees",
    "TreesLearner",
]

Array = NDArray[np.float32]

#: Planes from which it is told how common lumen is.
SEEN_PLANES = 12


class _Features:
    """Features of the voxels of a lesson, computed once, however often it is learned from."""

    def __init__(self) -> None:
        self._seen: tuple[Lesson, tuple[float, ...], Array] | None = None

    def of(self, lesson: Lesson, count: int | None = None) -> tuple[tuple[float, ...], Array]:
        """Return the finest scales, rounded as weights hold them, and features (voxels, features)."""
        if self._seen is None or self._seen[0] is not lesson:
            scales = tuple(float(np.float32(scale)) for scale in default_scales(lesson.spacing_um)[:count])
            found = features_at(lesson.image, lesson.annotated, scales, lesson.spacing_um, torch.get_num_threads())
            self._seen = lesson, scales, found
        return self._seen[1:]


@dataclass(frozen=True)
class TaughtTrees:
    """Pixel trees after a lesson, with the features of the lesson's voxels."""

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
        if annotates_slices(self.lesson.labels):
            return self
        step = max(1, len(self.lesson.image) // SEEN_PLANES)
        planes = range(step // 2, len(self.lesson.image), step)
        seen = [features(self.lesson.image, self.trees.scales, self.lesson.spacing_um, slice(z, z + 1)) for z in planes]
        rows = np.concatenate([plane.reshape(len(plane), -1) for plane in seen], axis=1).T
        probability = np.asarray(1 / (1 + np.exp(-logits(rows, self.trees.trees))), np.float32)
        taught = float(self.lesson.lumen.mean())
        shift = logit_shift(prevalence(probability, taught), taught)
        trees = self.trees.trees._replace(start=float(np.float32(self.trees.trees.start + shift)))
        return replace(self, trees=replace(self.trees, trees=trees))


class TreesLearner:
    """Fits pixel trees; on the finest `scales` of the default ones, if not on all."""

    def __init__(self, trees: int = 150, scales: int | None = None) -> None:
        self.trees, self.scales = trees, scales
        self.name = "pixel trees" if scales is None else f"pixel trees at {scales} scales"
        self._features = _Features()

    def learn(self, lesson: Lesson, learned: Mask, seed: int) -> TaughtTrees:
        """Fit trees to some voxels of the lesson."""
        scales, found = self._features.of(lesson, self.scales)
        threads = torch.get_num_threads()
        taught = found[learned], lesson.lumen[learned]
        trees = train_pixel_trees(*taught, scales, trees=self.trees, seed=seed, threads=threads)
        return TaughtTrees(trees, lesson, found)


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
        self._features = _Features()

    def learn(self, lesson: Lesson, learned: Mask, seed: int) -> TaughtPixelNetwork:
        """Train on some voxels of the lesson."""
        scales, found = self._features.of(lesson)
        network = train_pixel_network(
            found[learned], lesson.lumen[learned], scales, members=self.members, steps=self.steps, seed=seed
        )
        return TaughtPixelNetwork(network, lesson, found)


@dataclass(frozen=True)
class TaughtMicroNet:
    """A µ-Net after a lesson, with what it says of the volume."""

    member: Member
    lesson: Lesson
    probability: Array

    def at(self, asked: Mask) -> Array:
        """Return the probability of some voxels of the lesson."""
        return self.probability[self.lesson.annotated][asked]

    def everywhere(self) -> Array:
        """Return the probability of every voxel."""
        return self.probability

    def members(self) -> list[Member]:
        """Return the network, with the grid that it looks at."""
        return [self.member]


class MicroNetLearner:
    """Trains a µ-Net on the volume, resampled to an isotropic grid and padded where it is thin.

    Parameters
    ----------
    steps : int
    most_voxels : int
        The isotropic grid is as fine as the finest spacing, but has no more voxels than these.
    on_step : callable, optional
        Receives the report of every step.
    """

    name = "u-net"

    def __init__(
        self, steps: int = 120, most_voxels: int = 2_000_000, on_step: Callable[[StepReport], None] | None = None
    ) -> None:
        self.steps, self.most_voxels, self.on_step = steps, most_voxels, on_step

    def learn(self, lesson: Lesson, learned: Mask, seed: int) -> TaughtMicroNet:
        """Train on some voxels of the lesson."""
        step_um = float(np.float32(isotropic_step(lesson.labels.shape, lesson.spacing_um, self.most_voxels)))
        shape = isotropic_shape(lesson.labels.shape, lesson.spacing_um, step_um)
        image = _padded(resampled(lesson.image, shape))
        labels = np.zeros_like(lesson.labels)
        labels[lesson.annotated] = np.where(learned, lesson.labels[lesson.annotated], 0)
        labels = _nearest(labels, shape)
        labels = np.pad(labels, [(0, n - m) for n, m in zip(image.shape, labels.shape, strict=True)])
        sample = Sample.of("volume", Volume(image, upright()), labels == 1, labels > 0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = MicroNet()
        # The image is normalised already: what was added to fill it up must not count.
        trainer = Trainer(network, [replace(sample, mean=0.0, sd=1.0)], (), RECIPES["default"], seed)
        trainer.begin(self.steps)
        trainer.run(self.on_step or (lambda report: None), lambda report: None)
        member = Member("unet", network.eval(), step_um=step_um)
        probability = Taught([member], lesson.spacing_um).predict(lesson.image, lesson.spacing_um)
        return TaughtMicroNet(member, lesson, probability)


def _nearest(labels: NDArray[np.uint8], shape: Sequence[int]) -> NDArray[np.uint8]:
    places = [
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.intp), old - 1)
        for old, new in zip(labels.shape, shape, strict=True)
    ]
    return labels[np.ix_(*places)]


def _padded(image: Array) -> Array:
    """Return an image whose axes are long enough for a µ-Net: it is reflected at its end, as often as that takes."""
    return np.pad(image, [(0, max(0, MINIMUM_AXIS - length)) for length in image.shape], mode="symmetric")
