"""Images of an HDF5: what each group says, of its image or by its masks, read crop by crop as it is used."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import FileError, InputError
from micronet.core.ram import Allowance
from micronet.core.ram import size as bytes_text
from micronet.data.augmentation import Box
from micronet.data.dataset_file import Entry
from micronet.data.image_samples import Cut, ImageSample, Part, boxes_of, mask_labels, whole_box
from micronet.io.checks import one_line
from micronet.io.hdf5_images import ImageGroup
from micronet.networks.normalize import image_statistics

__all__ = ["sample_of_group"]

# A voxel's difference from the mean, and its square; of a mask, what numbers are looked for with and counted in.
_STATISTICS_BYTES, _COUNT_BYTES = 16, 40


def sample_of_group(
    entry: Entry, group: ImageGroup, classes: int, cut: Cut, foreground: str | None = None
) -> ImageSample:
    """Return the image of a group, cut; its voxels stay in the file.

    Parameters
    ----------
    entry : Entry
        Its `image` is the file.
    group : ImageGroup
    classes : int
    cut : Cut
    foreground : str, optional
        The array of the group of which crops must hold a share.

    Raises
    ------
    MicronetError
        If its arrays do not fit each other, do not fit into memory or cannot be read.
    """
    data = _Array(group.data, entry.image, f"{group.name}/data")
    at_once = data.shape if cut.size is None else (*cut.size[:1], *data.shape[1:])
    _check_memory(data, at_once, _STATISTICS_BYTES)
    mean, sd = image_statistics(data)
    parts = tuple(_parts(group, data, classes, cut, foreground))
    return ImageSample(entry, data.shape, data.read, mean, sd, parts, cut.block)


@dataclass(frozen=True, eq=False)
class _Array:
    """An array of a file as (Z, Y, X), of which boxes are read; `member` is one of several masks in it."""

    stored: Any
    file: Path
    name: str
    member: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        shape = tuple(self.stored.shape)[self.member is not None :]
        return shape if len(shape) == 3 else (1, *shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        found: np.dtype[Any] = self.stored.dtype
        return found

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Yield the planes."""
        whole = whole_box(self.shape)
        return (self.read(((z, z + 1), *whole[1:]))[0] for z in range(self.shape[0]))

    def read(self, box: Box) -> NDArray[Any]:
        """Return the voxels of a box; FileError where the file does not give them."""
        spans = tuple(slice(first, end) for first, end in box)
        flat = len(self.stored.shape) - (self.member is not None) == 2
        index = spans[1:] if flat else spans
        found = self.part(index if self.member is None else (self.member, *index))
        return found[None] if flat else found

    def part(self, index: Any) -> NDArray[Any]:
        """Return what the array as it is stored has at an index; FileError as `read`."""
        try:
            found: NDArray[Any] = self.stored[index]
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise FileError(f"'{self.file}', {self.name} cannot be read: {one_line(error)}") from error
        return found


def _check_memory(array: _Array, at_once: Sequence[int], more: int) -> None:
    """Refuse an array of which more is held at a time than fits into memory, before any of it is read.

    `more` are the bytes a voxel beside those of the array.
    """
    needed = math.prod(at_once) * (array.dtype.itemsize + more)
    allowance = Allowance.of(None)
    if not allowance.fits(needed):
        raise InputError(
            f"of its {array.name.rpartition('/')[2]}, {_by(array.stored.shape)}, {_by(at_once)} are held at a time: "
            f"about {bytes_text(needed)} of memory needed, {allowance.words}; cut it into smaller images"
        )


def _parts(group: ImageGroup, data: _Array, classes: int, cut: Cut, foreground: str | None) -> Iterator[Part]:
    """Yield the crops of a group with their labels: those of its image, or by the masks that it holds."""
    if group.label.shape == (classes,):
        yield _whole(_Array(group.label, data.file, f"{group.name}/label"), data.shape, cut)
        return
    cut.check(data.shape)
    labels_of = _mask_reader(group, data, classes, cut)
    covers = _foreground(group, data, foreground)
    for box in boxes_of(data.shape, cut):
        if covers is None or (covers(box) != 0).mean() >= cut.share:
            yield Part(box, labels_of(box))


def _whole(label: _Array, shape: Sequence[int], cut: Cut) -> Part:
    if cut.size is not None or cut.block is not None:
        raise InputError("its label is of the image, and does not say which crops or blocks hold a class")
    values = label.part(...)
    if not np.isin(values, (0, 1, -1)).all():
        raise InputError(f"its label must be 1, 0, or -1 where not known, found {values.tolist()}")
    return Part(whole_box(shape), values.astype(np.int8))


def _foreground(group: ImageGroup, data: _Array, name: str | None) -> Callable[[Box], NDArray[Any]] | None:
    if name is None:
        return None
    array = group.arrays.get(name)
    if array is None or array.shape != data.stored.shape:
        raise InputError(f"it has no array {name} of the shape of data, which foreground names")
    return _Array(array, data.file, f"{group.name}/{name}").read


def _mask_reader(group: ImageGroup, data: _Array, classes: int, cut: Cut) -> Callable[[Box], NDArray[np.int8]]:
    """Return what gives the labels of a crop by the group's masks."""
    label, shape, name = group.label, data.stored.shape, f"{group.name}/label"
    at_once = cut.size or data.shape
    if label.shape == shape:  # numbers of classes
        numbers = _Array(label, data.file, name)
        _check_memory(numbers, at_once, _COUNT_BYTES)
        return lambda box: mask_labels(_within(numbers.read(box), classes), None, classes, cut)
    if label.shape == (classes, *shape):
        each = [_Array(label, data.file, name, number) for number in range(classes)]
        _check_memory(each[0], at_once, _COUNT_BYTES)
        return lambda box: np.concatenate([mask_labels(one.read(box) != 0, None, 1, cut) for one in each])
    raise InputError(
        f"label has the shape {_by(label.shape)}, expected {classes} (a number each class), {_by(shape)} or "
        f"{classes} x {_by(shape)} (masks)"
    )


def _within(numbers: NDArray[Any], classes: int) -> NDArray[Any]:
    """Return numbers of classes; InputError where there are others."""
    if numbers.dtype != bool and not np.isin(numbers, range(classes + 1)).all():
        found = [f"{number:g}" for number in np.unique(numbers)[-5:]]
        raise InputError(f"a mask holds {', '.join(found)}, expected 0 to {classes}, the numbers of the classes")
    return numbers


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
