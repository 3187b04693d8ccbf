"""Write OME-Zarr: chunks, a pyramid in all three axes, labels with their colours; box by box, never whole in memory."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import FileError, InputError
from micronet.core.volume import Volume

__all__ = ["CHUNK", "LabelColour", "Writer", "boxes_of", "write", "write_from_planes", "write_labels", "writing_store"]

#: Voxels along each axis of a chunk, at most.
CHUNK = 128
# The last level of a pyramid has no axis longer than this.
_SMALLEST = 128
# Planes of a coarser level that are averaged at once.
_HALVED = 16
# Planes that come one after the other are gathered to a chunk's depth as far as that takes this.
_GATHERED_BYTES = 256 << 20
_UNITS = {"nm": "nanometer", "um": "micrometer", "mm": "millimeter", "cm": "centimeter", "m": "meter"}

Version = Literal["0.4", "0.5"]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class LabelColour:
    """Name and colour of the one label, 1; red, green and blue in [0, 1]."""

    name: str = "lumen"
    colour: tuple[float, float, float] = (0.9, 0.2, 0.2)


class Writer:
    """Writes one image of a store: its highest resolution box by box, then what is coarser.

    Several processes may, each boxes of its own: `Writer.of` in one makes the store, `Writer` in the others opens it.

    Parameters
    ----------
    folder : Path
        The group of the image, which is there.
    label : bool
        It is an image of labels: coarser levels have 1 where half of the voxels have.
    """

    def __init__(self, folder: Path, label: bool = False) -> None:
        zarr = import_module("zarr")
        self._folder, self._label = folder, label
        names = sorted((name.name for name in folder.iterdir() if name.name.isdigit()), key=int)
        with writing_store(folder):
            self._arrays = [zarr.open_array(str(folder / name), mode="r+") for name in names]
        self.chunk: tuple[int, ...] = self._arrays[0].chunks

    @classmethod
    def of(
        cls,
        folder: Path,
        grid: Volume,
        dtype: np.dtype[Any],
        *,
        version: Version = "0.5",
        label: LabelColour | None = None,
        chunk: Sequence[int] = (CHUNK, CHUNK, CHUNK),
    ) -> Writer:
        """Make the group of an image.

        Parameters
        ----------
        folder : Path
        grid : Volume
            Where the voxels lie; its array is not looked at.
        dtype : numpy dtype
            Of what is written; bool is written as uint8.
        version : {"0.5", "0.4"}
            Of NGFF: zarr v3 or v2.
        label : LabelColour, optional
            It is an image of labels.
        chunk : (Z, Y, X)
            Voxels of a chunk, at most.
        """
        dtype = np.dtype(np.uint8) if dtype.kind == "b" else dtype
        sides = [min(side, length) for side, length in zip(chunk, grid.shape, strict=True)]
        with writing_store(folder):
            for number, shape in enumerate(_pyramid(grid.shape)):
                _make_array(folder / str(number), shape, sides, dtype, 3 if version == "0.5" else 2)
            _write_group(folder, _attributes(folder.name, grid, version, label), version)
        return cls(folder, label is not None)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of the levels, from the highest resolution on."""
        return [array.shape for array in self._arrays]

    def __setitem__(self, box: Box, values: NDArray[Any]) -> None:
        """Write a box of the highest resolution, of whole chunks; FileError when the disk is full."""
        for bounds, side, length in zip(box, self.chunk, self.shapes[0], strict=True):
            if bounds.start % side or (bounds.stop % side and bounds.stop != length):
                raise InputError(f"{box} of '{self._folder.name}' are not whole chunks of {self.chunk} voxels")
        with writing_store(self._folder):
            # One chunk at a time: when one of several fails, zarr goes on with the others, into a folder that is gone.
            for part in boxes_of(values.shape, self.chunk):
                place = (slice(own.start + at.start, own.start + at.stop) for own, at in zip(box, part, strict=True))
                self._arrays[0][tuple(place)] = values[part]

    def finish(self) -> None:
        """Write the coarser levels, each from the one above."""
        for level, shape in enumerate(self.shapes[1:], 1):
            for box in boxes_of(shape, self.chunk):
                self.halve(level, box)

    def halve(self, level: int, box: Box) -> None:
        """Write a box, of whole chunks, of a coarser level from the one above, which is there."""
        finer, coarse = self._arrays[level - 1], self._arrays[level]
        with writing_store(self._folder):
            for inner in boxes_of([part.stop - part.start for part in box], self.chunk):
                own = tuple(slice(a.start + b.start, a.start + b.stop) for a, b in zip(box, inner, strict=True))
                part = tuple(
                    slice(one.start * step, min(one.stop * step, length))
                    for one, step, length in zip(own, _steps(finer.shape, coarse.shape), finer.shape, strict=True)
                )
                found = np.asarray(finer[part])
                deep, means = (
                    _steps(finer.shape, coarse.shape)[0],
                    np.empty([one.stop - one.start for one in own], coarse.dtype),
                )
                for z in range(0, len(means), _HALVED):  # sums of all of it would take eight times as much
                    planes = means[z : z + _HALVED]
                    planes[...] = _halved(found[deep * z : deep * (z + _HALVED)], planes.shape, self._label)
                coarse[own] = means


def _make_array(folder: Path, shape: Sequence[int], sides: Sequence[int], dtype: np.dtype[Any], form: int) -> None:
    zarr = import_module("zarr")
    more: dict[str, Any] = {"dimension_names": ["z", "y", "x"]} if form == 3 else {}
    zarr.create_array(
        str(folder),
        shape=shape,
        chunks=tuple(min(side, length) for side, length in zip(sides, shape, strict=True)),
        dtype=dtype,
        zarr_format=form,
        chunk_key_encoding={"name": "default" if form == 3 else "v2", "separator": "/"},
        fill_value=0,
        config={"write_empty_chunks": True},  # one that is missing is then one that was lost
        **more,
    )


def _attributes(name: str, grid: Volume, version: Version, label: LabelColour | None) -> dict[str, Any]:
    unit = {"unit": _UNITS[grid.units]} if grid.units in _UNITS else {}
    axes = [{"name": letter, "type": "space", **unit} for letter in "zyx"]
    spacing = np.linalg.norm(grid.directions, axis=1)
    origin = grid.origin[::-1]
    datasets = []
    for number in range(len(_pyramid(grid.shape))):
        step = np.array([2.0 ** _halvings(length, number) for length in grid.shape])
        first = origin + spacing * (step - 1) / 2  # the middle of the voxels that were averaged
        transforms = [
            {"type": "scale", "scale": (spacing * step).tolist()},
            {"type": "translation", "translation": first.tolist()},
        ]
        datasets.append({"path": str(number), "coordinateTransformations": transforms})
    stated = {"version": "0.4"} if version == "0.4" else {}
    found: dict[str, Any] = {
        "multiscales": [{**stated, "name": name, "axes": axes, "datasets": datasets, "type": "mean"}]
    }
    if label is not None:
        rgba = [round(255 * part) for part in label.colour] + [255]
        found["image-label"] = {
            **stated,
            "colors": [{"label-value": 1, "rgba": rgba}],
            "properties": [{"label-value": 1, "name": label.name}],
            "source": {"image": "../../"},
        }
    return found


def write(path: Path, volume: Volume) -> None:
    """Write a volume as an OME-Zarr 0.5; the folder appears whole or not at all, and takes no other's place."""
    write_from_planes(path, volume, iter(volume.array))


def write_from_planes(path: Path, grid: Volume, planes: Iterable[NDArray[Any]], version: Version = "0.5") -> None:
    """Write voxels that come plane by plane along Z; the array of `grid` only tells shape and type.

    Raises
    ------
    FileError
        If there is something of that name, the axes of the volume are turned, or the writing fails.
    """
    _check_upright(path, grid)
    if not path.parent.is_dir():
        raise FileError(f"cannot write '{path}': the folder '{path.parent}' does not exist")
    if os.path.lexists(path):
        raise FileError(f"cannot write '{path}': it is there already")
    staging = path.with_name(f".{secrets.token_hex(4)}.tmp.{path.name}")
    depth, height, width = grid.shape
    plane = height * width * grid.array.dtype.itemsize
    gathered = min(CHUNK, max(8, _GATHERED_BYTES // max(plane, 1) // 8 * 8))
    try:
        writer = Writer.of(staging, grid, grid.array.dtype, version=version, chunk=(gathered, CHUNK, CHUNK))
        first = 0
        for block in _blocks(planes, gathered):
            writer[slice(first, first + len(block)), slice(0, height), slice(0, width)] = block
            first += len(block)
        if first != depth:
            raise InputError(f"{first} planes were given for '{path}', expected {depth}")
        writer.finish()
        with writing_store(path):
            os.rename(staging, path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write_labels(image: Path, grid: Volume, label: LabelColour, version: Version) -> Writer:
    """Return the writer of a label of an image that is being written."""
    with writing_store(image):
        _write_group(image / "labels", {"labels": [label.name]}, version)
    return Writer.of(image / "labels" / label.name, grid, np.dtype(np.uint8), version=version, label=label)


def boxes_of(shape: Sequence[int], sides: Sequence[int]) -> Iterator[Box]:
    """Yield boxes of these sides, in order, that fill a shape."""
    starts = (range(0, length, side) for length, side in zip(shape, sides, strict=True))
    for corner in itertools.product(*starts):
        z, y, x = (
            slice(first, min(first + side, length)) for first, side, length in zip(corner, sides, shape, strict=True)
        )
        yield z, y, x


@contextmanager
def writing_store(path: Path) -> Iterator[None]:
    """Turn what the machine refuses while a store is written into a FileError that names it."""
    try:
        yield
    except OSError as error:
        raise FileError(f"cannot write '{path}': {error.strerror or error}") from error


def _check_upright(path: Path, grid: Volume) -> None:
    spacing = np.linalg.norm(grid.directions, axis=1)
    turned = np.zeros((3, 3))
    turned[[0, 1, 2], [2, 1, 0]] = spacing
    if not np.allclose(grid.directions, turned, atol=1e-6 * float(spacing.max())):
        raise FileError(f"cannot write '{path}': OME-Zarr has no turned or mirrored axes; write .nrrd or .nii")


def _write_group(folder: Path, attributes: dict[str, Any], version: Version) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if version == "0.4":
        (folder / ".zgroup").write_text(json.dumps({"zarr_format": 2}), encoding="utf-8")
        (folder / ".zattrs").write_text(json.dumps(attributes, indent=2), encoding="utf-8")
        return
    content = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": {"version": version, **attributes}}}
    (folder / "zarr.json").write_text(json.dumps(content, indent=2), encoding="utf-8")


def _pyramid(shape: Sequence[int]) -> list[tuple[int, int, int]]:
    z, y, x = shape
    levels = [(z, y, x)]
    while max(levels[-1]) > _SMALLEST:
        z, y, x = (-(-length // 2) for length in levels[-1])
        levels.append((z, y, x))
    return levels


def _halvings(length: int, number: int) -> int:
    """Return how often an axis was halved down to a level: an axis of one voxel is left alone."""
    count = 0
    while count < number and length > 1:
        length, count = -(-length // 2), count + 1
    return count


def _steps(finer: Sequence[int], coarse: Sequence[int]) -> list[int]:
    return [1 if a == b else 2 for a, b in zip(finer, coarse, strict=True)]


def _halved(array: NDArray[Any], shape: Sequence[int], label: bool) -> NDArray[Any]:
    """Return the means of 2x2x2 voxels, of what there is at an odd end; of labels 1 where that is half or more."""
    sums: NDArray[Any] = array.astype(np.float64)
    for axis, (given, wanted) in enumerate(zip(array.shape, shape, strict=True)):
        if given == wanted:
            continue
        starts = np.arange(0, given, 2)
        counts = np.diff([*starts.tolist(), given]).reshape([-1 if other == axis else 1 for other in range(3)])
        sums = np.add.reduceat(sums, starts, axis=axis) / counts
    if label:
        return (sums >= 0.5).astype(array.dtype)
    return sums.astype(array.dtype) if array.dtype.kind == "f" else np.rint(sums).astype(array.dtype)


def _blocks(planes: Iterable[NDArray[Any]], depth: int) -> Iterator[NDArray[Any]]:
    gathered: list[NDArray[Any]] = []
    for plane in planes:
        gathered.append(plane)
        if len(gathered) == depth:
            yield np.stack(gathered)
            gathered = []
    if gathered:
        yield np.stack(gathered)
