"""What the JSON files of an OME-Zarr say, read and checked before zarr opens anything.

NGFF 0.4 lies in ``.zattrs`` beside zarr v2's ``.zarray``, NGFF 0.5 under ``ome`` in zarr v3's ``zarr.json``. Codecs are
held against a list: some of numcodecs unpickle what they read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from micronet.core.errors import FileError, InputError, setting
from micronet.core.volume import MICROMETRES_PER, upright
from micronet.io.checks import check_dtype, is_file, one_line
from micronet.io.units import assumed_um, canonical_unit, without_interval
from micronet.io.zarr_bounds import Packing

__all__ = ["ArrayMetadata", "Image", "array_metadata", "attributes_of", "image_of", "labels_of", "read_json"]

_LARGEST_JSON = 16_000_000
#: Bytes of one chunk, unpacked.
_LARGEST_CHUNK = 1 << 32
_SHARDS = "sharding_indexed"
_VERSIONS = ("0.4", "0.5")
_CODECS = {
    *("blosc", "zstd", "gzip", "zlib", "lz4", "bz2", "lzma", "shuffle", "delta", "bytes", "transpose", "crc32c"),
    *(_SHARDS, "bitround", "fixedscaleoffset"),
}
_TYPES = {"bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)), "float32", "float64"}
_SECONDS = {"millisecond": 1e-3, "microsecond": 1e-6, "second": 1.0, "minute": 60.0, "hour": 3600.0}


@dataclass(frozen=True)
class ArrayMetadata:
    """Of one array: its folder, voxels along each axis, their type, those of one file, zarr's format, fill, packing."""

    folder: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pieces: tuple[int, ...]
    zarr_format: int
    fill: str
    packing: Packing


@dataclass(frozen=True)
class Image:
    """One level of an image.

    Parameters
    ----------
    path : Path
        What the person named.
    group : Path
        The folder that holds the image's metadata.
    array : ArrayMetadata
        The level that was asked for.
    axes : str
        A letter an axis, as the array has them.
    version : str
        Of NGFF.
    geometry : mapping
        What `Volume` takes beside the array.
    interval_s : float or None
        Seconds between time points.
    levels : int
        How many there are.
    """

    path: Path
    group: Path
    array: ArrayMetadata
    axes: str
    version: str
    geometry: dict[str, Any]
    interval_s: float | None
    levels: int

    @property
    def files(self) -> tuple[Path, ...]:
        """The metadata of the image, and all files of the level."""
        above = [self.group / name for name in ("zarr.json", ".zattrs", ".zgroup")]
        inside = sorted(file for file in self.array.folder.rglob("*") if file.is_file())
        return (*(file for file in above if is_file(file)), *inside)


def read_json(file: Path, path: Path) -> dict[str, Any]:
    """Return what a JSON file of a store holds; FileError, which names the store, where that is no object."""
    try:
        if file.stat().st_size > _LARGEST_JSON:
            raise FileError(f"'{path}': its '{file.name}' is larger than any that describes an image")
        content = json.loads(file.read_bytes())
    except FileError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"'{path}': its '{file.name}' cannot be read ({one_line(error)})") from error
    if not isinstance(content, dict):
        raise FileError(f"'{path}': its '{file.name}' holds no JSON object")
    return content


def attributes_of(group: Path, path: Path) -> tuple[dict[str, Any], int]:
    """Return what NGFF says of a group, and the format of zarr, 2 or 3; FileError where the folder is no group."""
    if is_file(group / "zarr.json"):
        content = read_json(group / "zarr.json", path)
        attributes = content.get("attributes")
        ome = attributes.get("ome", attributes) if isinstance(attributes, dict) else {}
        return (ome if isinstance(ome, dict) else {}), 3
    if is_file(group / ".zattrs"):
        return read_json(group / ".zattrs", path), 2
    if is_file(group / ".zgroup"):
        return {}, 2
    raise FileError(f"'{path}' is no OME-Zarr: '{group.name}' holds neither zarr.json nor .zattrs")


def labels_of(path: Path) -> list[str]:
    """Return the names of the labels of an image."""
    folder = path / "labels"
    if not folder.is_dir():
        return []
    names = attributes_of(folder, path)[0].get("labels")
    return [name for name in names if isinstance(name, str) and _inside(name)] if isinstance(names, list) else []


def image_of(path: Path, level: int = 0, group: Path | None = None) -> Image:
    """Return a level of the image in a group, by default the store's own, or the only one of a collection.

    Raises
    ------
    FileError
        If what describes it is missing, damaged or of another version.
    InputError
        If there is no such level.
    """
    group = path if group is None else group
    attributes, zarr_format = attributes_of(group, path)
    if "bioformats2raw.layout" in attributes and "multiscales" not in attributes:
        if (group / "1").is_dir():
            raise FileError(f"'{path}' holds several images; copy the one to read, such as '{group.name}/0', out of it")
        group = group / "0"
        attributes, zarr_format = attributes_of(group, path)
    scales = attributes.get("multiscales")
    if not isinstance(scales, list) or not scales or not isinstance(scales[0], dict):
        raise FileError(f"'{path}' is no OME-Zarr image: its metadata names no multiscales")
    image = scales[0]
    version = str(image.get("version", attributes.get("version", "0.4" if zarr_format == 2 else "0.5")))
    if version not in _VERSIONS:
        raise FileError(f"'{path}' is OME-Zarr {version[:20]}; {' and '.join(_VERSIONS)} can be read")
    datasets = image.get("datasets")
    axes = _axes(image.get("axes"), path)
    if not isinstance(datasets, list) or not datasets or not all(isinstance(one, dict) for one in datasets):
        raise FileError(f"'{path}': its multiscales name no datasets")
    if not 0 <= level < len(datasets):
        levels = f"levels 0 to {len(datasets) - 1}" if len(datasets) > 1 else "level 0 only"
        raise InputError(f"'{path}' has {levels}, not {level} {setting('level')}")
    name = datasets[level].get("path")
    if not isinstance(name, str) or not _inside(name):
        raise FileError(f"'{path}': level {level} lies nowhere in it")
    array = array_metadata(group / name, path)
    letters = "".join(letter for letter, _ in axes)
    if len(array.shape) != len(letters):
        raise FileError(f"'{path}': level {level} has the shape {array.shape}, its metadata the axes {letters}")
    transforms = [datasets[level].get("coordinateTransformations"), image.get("coordinateTransformations")]
    geometry, interval = _geometry(transforms, axes, path)
    return Image(path, group, array, letters, version, geometry, interval, len(datasets))


def array_metadata(folder: Path, path: Path) -> ArrayMetadata:
    """Return what an array says of itself; FileError where that is not what is read here."""
    if is_file(folder / "zarr.json"):
        content, zarr_format = read_json(folder / "zarr.json", path), 3
    elif is_file(folder / ".zarray"):
        content, zarr_format = read_json(folder / ".zarray", path), 2
    else:
        raise FileError(f"'{path}' has no array '{folder.relative_to(path)}', which its metadata names")
    try:
        shape = _sizes(content["shape"])
        dtype = np.dtype(_type_name(content["data_type"])) if zarr_format == 3 else np.dtype(str(content["dtype"]))
        chunks = content["chunk_grid"]["configuration"]["chunk_shape"] if zarr_format == 3 else content["chunks"]
        pieces = _sizes(chunks)
        codecs = list(_codecs(content, zarr_format))
        packing = _packing(content, zarr_format, path, math.prod(pieces) * dtype.itemsize)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise FileError(f"'{path}': '{folder.relative_to(path)}' is not described ({one_line(error)})") from error
    check_dtype(dtype, path)
    foreign = [name for name in codecs if name not in _CODECS]
    if foreign:
        raise FileError(f"'{path}' is packed with '{foreign[0][:40]}'; {', '.join(sorted(_CODECS))} can be read")
    if len(pieces) != len(shape) or min(pieces, default=0) < 1 or math.prod(pieces) * dtype.itemsize > _LARGEST_CHUNK:
        raise FileError(f"'{path}': chunks of {pieces} voxels of {dtype} are none that can be read")
    return ArrayMetadata(folder, shape, dtype, pieces, zarr_format, str(content.get("fill_value"))[:40], packing)


def _packing(content: dict[str, Any], zarr_format: int, path: Path, piece_bytes: int) -> Packing:
    """Return how chunks are packed; FileError where shards lie in shards, or chunks are packed twice."""
    if zarr_format == 2:
        return _checked(Packing(str(path), [*_codecs(content, 2)], piece_bytes), path)
    outer = content["codecs"]
    shards = [codec["configuration"] for codec in outer if isinstance(codec, dict) and codec["name"] == _SHARDS]
    if not shards:
        return _checked(Packing(str(path), [*_names_of(outer)], piece_bytes), path)
    told = shards[0]
    voxels = math.prod(_sizes(content["chunk_grid"]["configuration"]["chunk_shape"]))
    inner = voxels // max(math.prod(_sizes(told["chunk_shape"])), 1)
    sums = sum(name == "crc32c" for name in _names_of(told.get("index_codecs", ())))
    names = [*_names_of(told["codecs"])]
    if _SHARDS in names:
        raise FileError(f"'{path}' has shards in shards, which cannot be read")
    first = told.get("index_location") == "start"
    size = piece_bytes // max(inner, 1)
    return _checked(Packing(str(path), names, size, inner, 16 * inner + 4 * sums, first), path)


def _checked(packing: Packing, path: Path) -> Packing:
    """Return it; only what is unpacked first can be held against a size."""
    packed = packing.packed
    if len(packed) > 1:
        raise FileError(f"'{path}' is packed twice, with {' and '.join(packed)}, which cannot be read")
    return packing


def _codecs(content: dict[str, Any], zarr_format: int) -> Iterator[str]:
    if zarr_format == 3:
        yield from _names_of(content["codecs"])
        return
    for one in [*(content.get("filters") or []), content.get("compressor")]:
        if one is not None:
            yield str(one["id"])


def _names_of(codecs: Any) -> Iterator[str]:
    for codec in codecs:
        yield str(codec["name"] if isinstance(codec, dict) else codec).removeprefix("numcodecs.")
        configuration = codec.get("configuration") if isinstance(codec, dict) else None
        if isinstance(configuration, dict):
            for inner in ("codecs", "index_codecs"):
                yield from _names_of(configuration.get(inner, ()))


def _type_name(name: Any) -> str:
    if name not in _TYPES:
        raise ValueError(f"voxels of type {name!r}")
    return str(name)


def _sizes(found: Any) -> tuple[int, ...]:
    if not isinstance(found, list) or not all(type(one) is int and one >= 0 for one in found):
        raise ValueError(f"{found!r} are no sizes")
    return tuple(found)


def _inside(name: str) -> bool:
    """Whether a name leads to a folder in the group."""
    return bool(name) and not name.startswith(("/", "\\")) and ".." not in name.replace("\\", "/").split("/")


def _axes(found: Any, path: Path) -> list[tuple[str, str]]:
    """Return letter and unit of each axis."""
    axes = []
    for axis in found if isinstance(found, list) else []:
        name = axis.get("name") if isinstance(axis, dict) else axis
        unit = axis.get("unit") if isinstance(axis, dict) else None
        axes.append((str(name).upper(), unit if isinstance(unit, str) else ""))
    letters = [letter for letter, _ in axes]
    if not set("ZYX") <= set(letters) or len(set(letters)) < len(letters) or not set(letters) <= set("TCZYX"):
        raise FileError(
            f"'{path}': its axes are {', '.join(letters)[:80] or 'not stated'}, expected Z, Y, X, and T or C"
        )
    return axes


def _geometry(
    transforms: Sequence[Any], axes: Sequence[tuple[str, str]], path: Path
) -> tuple[dict[str, Any], float | None]:
    """Return what `Volume` takes, and the seconds between time points."""
    scale, translation = np.ones(len(axes)), np.zeros(len(axes))
    stated = False
    for given in transforms:
        for one in given if isinstance(given, list) else []:
            kind = one.get("type") if isinstance(one, dict) else None
            if kind == "scale":
                factor = _numbers(one, "scale", len(axes), path)
                scale, translation, stated = scale * factor, translation * factor, True
            elif kind == "translation":
                translation = translation + _numbers(one, "translation", len(axes), path)
            elif kind != "identity":
                raise FileError(f"'{path}': a transformation of type {kind!r}, expected scale and translation")
    places = ["".join(letter for letter, _ in axes).index(letter) for letter in "ZYX"]
    units = [axes[place][1] for place in places]
    spacing, origin = scale[places], translation[places]
    if not (np.isfinite(scale).all() and np.isfinite(origin).all() and (spacing > 0).all()):
        raise FileError(f"'{path}': its scale is {spacing.tolist()}, expected positive numbers")
    interval, notes = _interval(scale, axes)
    geometry: dict[str, Any] = {"notes": notes}
    if not stated:
        return geometry | {
            "notes": (*notes, f"the OME-Zarr states no scale: lengths are unknown {setting('spacing_um')}")
        }, interval
    geometry |= {"directions": upright(spacing), "origin": origin[::-1]}
    known = [canonical_unit(unit) for unit in units]
    if not any(units):
        z, y, x = spacing.tolist()
        return geometry | {"units": "um", "units_assumed": True, "notes": (*notes, assumed_um((z, y, x)))}, interval
    if None in known:
        raise FileError(f"'{path}': the units of its axes are {units}, expected lengths such as micrometer")
    if len(set(known)) == 1:
        return geometry | {"units": known[0]}, interval
    factors = np.array([MICROMETRES_PER[str(unit)] for unit in known])
    geometry |= {"directions": upright(spacing * factors), "origin": (origin * factors)[::-1], "units": "um"}
    return geometry, interval


def _interval(scale: Any, axes: Sequence[tuple[str, str]]) -> tuple[float | None, tuple[str, ...]]:
    for step, (letter, unit) in zip(scale.tolist(), axes, strict=True):
        if letter == "T":
            if unit in _SECONDS:
                return step * _SECONDS[unit], ()
            return None, (without_interval(step),) if step != 1 else ()
    return None, ()


def _numbers(transform: dict[str, Any], key: str, count: int, path: Path) -> np.ndarray[Any, np.dtype[np.float64]]:
    found = transform.get(key)
    if not isinstance(found, list) or len(found) != count or not all(type(one) in (int, float) for one in found):
        raise FileError(f"'{path}': a {key} of {str(found)[:80]}, expected {count} numbers")
    return np.array(found, dtype=np.float64)
