"""Images with what they hold, as a network that learns from a yes or no sees them: whole, in crops, or in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import InputError
from micronet.core.names import listed
from micronet.data.augmentation import Box
from micronet.data.dataset import Sample
from micronet.data.dataset_file import Entry
from micronet.networks.normalize import image_statistics

__all__ = ["Cut", "ImageSample", "Part", "block_labels", "boxes_of", "mask_labels", "never_or_always", "whole_box"]

#: 1 where an image holds a class, 0 where it does not, -1 where nobody said.
THERE, ABSENT, UNKNOWN = 1, 0, -1


@dataclass(frozen=True)
class Cut:
    """How images are cut into crops.

    Parameters
    ----------
    size : (Z, Y, X) or None
        Voxels of a crop; None takes images whole.
    step : (Z, Y, X)
        From one crop to the next; the last reaches the end of the image.
    area : int
        Voxels that a class must cover to be in a crop, or in a block.
    block : int, optional
        Edge of blocks in voxels, each of which has labels of its own; crops then begin and end between blocks.
    share : float
        Crops are left out whose foreground covers a smaller part of them.
    """

    size: tuple[int, int, int] | None = None
    step: tuple[int, int, int] | None = None
    area: int = 1
    block: int | None = None
    share: float = 0.0

    def check(self, shape: Sequence[int]) -> None:
        """Raise InputError where an image of so many voxels is smaller than a crop."""
        if self.size is not None and any(length < least for length, least in zip(shape, self.size, strict=True)):
            raise InputError(f"it has {' x '.join(map(str, shape))} voxels, fewer than a crop (key: crop)")


@dataclass(frozen=True)
class Part:
    """What is seen of an image at a time: its voxels, and the labels, int8.

    They are (K,), one for each class, or (K, D, H, W), one for each class and block.
    """

    box: Box
    labels: NDArray[np.int8]

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return tuple(end - first for first, end in self.box)


@dataclass(frozen=True)
class ImageSample:
    """An image of a data set: `read` gives the voxels of a box, `mean` and `sd` are those of the whole image."""

    entry: Entry
    shape: tuple[int, ...]
    read: Callable[[Box], NDArray[Any]]
    mean: float
    sd: float
    parts: tuple[Part, ...]
    block: int | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, image: NDArray[Any], parts: Sequence[Part], block: int | None = None) -> ImageSample:
        """Return an image (Z, Y, X) that is in memory already, as one to train on."""
        statistics = image_statistics(image)
        return cls(
            Entry(name, "train", Path(), Path()), image.shape, partial(_cut, image), *statistics, tuple(parts), block
        )

    @classmethod
    def of_blocks(
        cls, name: str, image: NDArray[Any], labels: NDArray[np.int8], block: int, cut: Cut | None = None
    ) -> ImageSample:
        """Return an image (Z, Y, X) whose blocks have labels, (K, D, H, W) as `Part`, in crops as `cut` has them."""
        cut = cut or Cut(block=block)
        parts = [Part(box, labels[(slice(None), *_blocks_of(box, block))]) for box in boxes_of(image.shape, cut)]
        return cls.of(name, image, parts, block)

    @classmethod
    def of_sample(cls, sample: Sample, classes: int, cut: Cut, foreground: NDArray[np.bool_] | None) -> ImageSample:
        """Return an image with a mask, cut; its labels say which classes cover `cut.area` voxels."""
        parts = _masked_parts(sample.target, sample.weight, foreground, classes, cut)
        read = partial(_cut, sample.image)
        return cls(
            sample.entry, sample.image.shape, read, sample.mean, sample.sd, tuple(parts), cut.block, sample.notes
        )


def _cut(image: NDArray[Any], box: Box) -> NDArray[Any]:
    return image[tuple(slice(first, end) for first, end in box)]


def whole_box(shape: Sequence[int]) -> Box:
    """Return the box that holds an image."""
    return tuple((0, length) for length in shape)


def boxes_of(shape: Sequence[int], cut: Cut) -> Iterator[Box]:
    """Yield the crops of an image, as `Cut` says.

    >>> [box[2] for box in boxes_of((1, 4, 10), Cut((1, 4, 4), (1, 4, 4)))]
    [(0, 4), (4, 8), (6, 10)]
    >>> [box[2] for box in boxes_of((1, 8, 20), Cut((1, 8, 16), (1, 8, 8), block=8))]
    [(0, 16), (8, 20)]
    """
    if cut.size is None:
        yield whole_box(shape)
        return
    step = cut.step or cut.size
    yield from product(*map(partial(_spans, cut.block or 1), shape, cut.size, step))


def _spans(block: int, length: int, size: int, step: int) -> list[tuple[int, int]]:
    last = max(-(-(length - size) // block) * block, 0)  # where the last begins, between blocks
    firsts = [*range(0, last, step), last]
    return [(first, min(first + size, length)) for first in firsts]


def _blocks_of(box: Box, block: int) -> tuple[slice, ...]:
    return tuple(slice(first // block, -(-end // block)) for first, end in box)


def _masked_parts(
    mask: NDArray[Any],
    weight: NDArray[np.bool_] | None,
    foreground: NDArray[np.bool_] | None,
    classes: int,
    cut: Cut,
) -> Iterator[Part]:
    for box in boxes_of(mask.shape, cut):
        if foreground is not None and _cut(foreground, box).mean() < cut.share:
            continue
        known = None if weight is None else _cut(weight, box)
        yield Part(box, mask_labels(_cut(mask, box), known, classes, cut))


def mask_labels(mask: NDArray[Any], weight: NDArray[np.bool_] | None, classes: int, cut: Cut) -> NDArray[np.int8]:
    """Return the labels of an image, or of each of its blocks, by which classes a mask has in them.

    Parameters
    ----------
    mask : ndarray of shape (Z, Y, X), bool or uint8
        True is the first class; else the numbers of the classes, from 1.
    weight : ndarray of shape (Z, Y, X), bool, optional
        False where nothing is annotated: what is not found there may be there all the same.
    classes : int
    cut : Cut
        Its `area` and `block`.

    Returns
    -------
    ndarray of shape (classes,) or (classes, D, H, W), int8
    """
    block = cut.block or max(mask.shape)
    counts = np.stack([_per_block(_of_class(mask, weight, number), block) for number in range(1, classes + 1)])
    labels = np.where(counts >= cut.area, THERE, ABSENT).astype(np.int8)
    if weight is not None:
        unseen = _per_block(~weight, block) > 0
        labels[(labels == ABSENT) & unseen] = UNKNOWN
    return labels if cut.block else labels.reshape(classes)


def _of_class(mask: NDArray[Any], weight: NDArray[np.bool_] | None, number: int) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = mask == number
    return found if weight is None else found & weight


def _per_block(mask: NDArray[np.bool_], block: int) -> NDArray[np.int64]:
    """Return how many voxels of each block are True; the last blocks may be shorter."""
    counts = mask.astype(np.int64)
    for axis, length in enumerate(mask.shape):
        counts = np.add.reduceat(counts, range(0, length, block), axis=axis)
    return counts


def block_labels(grid: NDArray[Any], classes: int) -> NDArray[np.int8]:
    """Return the labels of blocks from what a file says of each: 0 nothing, 1 it holds the class, 2 it does not.

    InputError for other numbers, and where there are several classes.
    """
    if classes > 1:
        raise InputError(f"a label for each block tells of one class, the data set has {classes}")
    if not np.isin(grid, (0, 1, 2)).all():
        found = listed([f"{number:g}" for number in np.unique(grid)[:8]], 8)
        raise InputError(f"labels of blocks are 0 (not known), 1 (it holds the class), 2 (it does not); found {found}")
    return np.choose(grid.astype(np.uint8), (UNKNOWN, THERE, ABSENT)).astype(np.int8)[None]


def never_or_always(classes: Sequence[str], samples: Sequence[ImageSample]) -> dict[str, str]:
    """Return what is to be said of the classes that cannot be learned or scored: none, or all, hold them.

    Parameters
    ----------
    classes : sequence of str
    samples : sequence of ImageSample
        Of one split.

    Returns
    -------
    dict of str to str
        By the name of the class, as ``never in 40 images``.
    """
    labels = [part.labels.reshape(len(classes), -1) for sample in samples for part in sample.parts]
    what = "blocks" if any(sample.block for sample in samples) else "images"
    found = {}
    for number, name in enumerate(classes):
        said = np.concatenate([one[number] for one in labels]) if labels else np.empty(0, np.int8)
        there, count = int((said == THERE).sum()), int((said != UNKNOWN).sum())
        if there in (0, count):
            found[name] = f"{'always' if there else 'never'} in {count:,} {what} that are labelled"
    return found
