"""NIfTI-1 and NIfTI-2 volumes (.nii, .nii.gz).

Source: https://nifti.nimh.nih.gov. A NIfTI lists its axes fastest first (x, y, z) and its world is
right-anterior-superior; the array in C order is (Z, Y, X), never turned, and the columns of the affine are
the rows of `Volume.directions` in reverse. nibabel interprets the header, this module moves the bytes.
"""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from micronet.core.errors import FileError, InputError, setting
from micronet.core.files import atomic_path
from micronet.core.volume import MICROMETRES_PER, Volume
from micronet.io.checks import ReadOptions, build_volume, check_axes, check_dtype, one_line, voxel_bytes
from micronet.io.inflate import inflate, inflate_prefix
from micronet.io.nifti_geometry import SPACE, UNIT_CODES, geometry_of
from micronet.io.recording import Recording, open_flat_recording
from micronet.io.source import Source
from micronet.io.stack import FilePlanes, FlatData, Stack, build_grid
from micronet.io.units import without_interval

__all__ = ["NiftiSource", "open_recording", "open_stack", "read", "write"]

# Units that NIfTI has no name for, and the one to tell them in.
_UNITS_CONVERTED = {"nm": "um", "cm": "mm"}

_TYPES = "uint8 int8 uint16 int16 uint32 int32 uint64 int64 float32 float64".split()
# nibabel does not say what types these are.
_KINDS: tuple[Any, ...] = (Nifti1Header, Nifti2Header)
# NIfTI-1 counts voxels along an axis in 16 bits.
_LONGEST_NIFTI1 = 32767
_LONGEST_EXTENSIONS = 64 << 20
_SCANNER = 1
_GZIP_LEVEL = 2


@dataclass(frozen=True, eq=False)
class NiftiSource:
    """What a NIfTI file holds before its voxels.

    Parameters
    ----------
    header : nibabel Nifti1Header or Nifti2Header
        As in the file.
    extensions : bytes
        What follows the header up to the voxels, not interpreted.
    """

    header: Any
    extensions: bytes


@np.errstate(all="ignore")  # numbers that are none are told in our own words
def read(source: Source, options: ReadOptions) -> Volume:
    """Read a 3-D NIfTI; further axes must have length 1."""
    path = source.path
    check_axes(options, "ZYX", path)
    with source.open() as stream:
        lead = _read_lead(stream, path)
        shape = _shape(lead.header, path)[2::-1]
        content = inflate(stream, lead.encoding, math.prod(shape) * lead.dtype.itemsize, path, skip=lead.offset)
    array = lead.scaled(np.frombuffer(content, lead.dtype).reshape(shape))
    return build_volume(path, array, **_described(lead, path, options))


@np.errstate(all="ignore")  # numbers that are none are told in our own words
def open_stack(source: Source, options: ReadOptions) -> Stack:
    """Open a 3-D NIfTI to read it plane by plane."""
    path = source.path
    check_axes(options, "ZYX", path)
    with source.open() as stream:
        lead = _read_lead(stream, path)
    shape = _shape(lead.header, path)[2::-1]
    grid = build_grid(path, shape, "ZYX", lead.scaled(np.empty(0, lead.dtype)).dtype, **_described(lead, path, options))
    planes = FilePlanes(source, FlatData(path, skip=lead.offset, encoding=lead.encoding), shape, lead.dtype)
    return Stack(path, (path,), grid, "ZYX", lambda first, stop: lead.scaled(planes(first, stop)), planes.close)


def open_recording(source: Source, options: ReadOptions) -> Recording:
    """Open a NIfTI of four axes (x, y, z, t)."""
    path = source.path
    check_axes(options, "TZYX", path)
    with source.open() as stream:
        lead = _read_lead(stream, path)
    shape = _shape(lead.header, path, longest=4)
    interval_s, lost = _interval(lead.header)
    described = _described(lead, path, options)
    recording = open_flat_recording(
        source,
        shape[::-1],
        "TZYX"[-len(shape) :],
        lead.dtype,
        FlatData(path, skip=lead.offset, encoding=lead.encoding),
        interval_s=interval_s,
        **described | {"notes": (*described["notes"], *lost)},
    )
    return replace(recording, load=lambda number: lead.scaled(recording.load(number)))


@dataclass(frozen=True)
class _Lead:
    """What stands before the voxels: the header and, up to byte `offset` of the unpacked file, its extensions."""

    header: Any
    extensions: bytes
    encoding: str
    offset: int
    dtype: np.dtype[Any]
    scaling: tuple[float, float]

    def scaled(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return voxels as the numbers that they stand for."""
        if self.scaling == (1.0, 0.0):
            return array
        with np.errstate(all="ignore"):
            numbers: NDArray[Any] = apply_read_scaling(array, *self.scaling)
        return numbers


def _read_lead(stream: BinaryIO, path: Path) -> _Lead:
    encoding = "gzip" if path.name.lower().endswith(".gz") else "raw"
    header = _parse(inflate_prefix(stream, encoding, 540, path), path)
    offset = _offset(header, path)
    extensions = inflate_prefix(stream, encoding, offset, path)[header.template_dtype.itemsize :]
    return _Lead(header, extensions, encoding, offset, _dtype(header, path), _scaling(header, path))


def _described(lead: _Lead, path: Path, options: ReadOptions) -> dict[str, Any]:
    """Return the arguments of `Volume` beside the array."""
    geometry = geometry_of(lead.header, path, stated=options.spacing_um is not None)
    return geometry | {"header": {"nifti": NiftiSource(lead.header, lead.extensions)}}


def write(path: Path, volume: Volume) -> None:
    """Write a volume as NIfTI-1, or NIfTI-2 where it came from one or an axis is too long for NIfTI-1.

    The affine is float32 in NIfTI-1, as the format has it. A header that came from a NIfTI is carried on with
    its extensions, and where the geometry is still the same its forms are left as they are.
    """
    array = volume.array.astype(np.uint8) if volume.array.dtype == bool else volume.array
    if array.dtype.name not in _TYPES:
        raise FileError(
            f"cannot write '{path}': NIfTI has no voxels of type {array.dtype}; "
            "convert to bool, an integer of 8 to 64 bits, float32 or float64"
        )
    source = volume.header.get("nifti")
    if isinstance(source, NiftiSource):
        header, extensions = source.header.copy(), source.extensions
    else:
        header = _KINDS[0 if max(volume.shape) <= _LONGEST_NIFTI1 else 1]()
        extensions = bytes(4)
    if not (isinstance(source, NiftiSource) and _is_geometry_of(source.header, volume, path)):
        _set_geometry(header, volume, path)
    header["dim"] = [3, *volume.shape[::-1], 1, 1, 1, 1]
    header.set_data_dtype(array.dtype.newbyteorder("="))
    header.set_slope_inter(1.0, 0.0)
    header.set_data_offset(header.template_dtype.itemsize + len(extensions))
    lead = header.binaryblock + extensions
    content = voxel_bytes(array.astype(header.get_data_dtype(), copy=False))
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        if path.name.lower().endswith(".gz"):
            with gzip.GzipFile("", "wb", _GZIP_LEVEL, stream, mtime=0) as packed:
                packed.write(lead)
                packed.write(content)
        else:
            stream.write(lead)
            stream.write(content)


def _parse(block: bytes, path: Path) -> Any:
    for kind in _KINDS:
        size = kind.template_dtype.itemsize
        if len(block) >= size:
            header = kind(block[:size], check=False)
            if header["sizeof_hdr"] == size and header["magic"].tobytes()[:3] == kind.single_magic[:3]:
                return header
    raise FileError(f"'{path}' is not a NIfTI file that can be read: it lacks the header of NIfTI-1 or NIfTI-2")


def _shape(header: Any, path: Path, longest: int = 3) -> tuple[int, ...]:
    """Return the first `longest` axes, x first; further ones must have length 1."""
    count, *lengths = (int(length) for length in header["dim"])
    shape = lengths[: max(count, 0)]
    if not 1 <= count <= 7 or min(shape) < 1:
        raise FileError(f"'{path}': its NIfTI header claims the shape {lengths} with {count} axes")
    if count < 3:
        raise FileError(f"'{path}' is a 2-D image of {shape} voxels, expected a 3-D volume")
    if any(length != 1 for length in shape[longest:]):
        named = ", ".join(f"{name} {length}" for name, length in zip("xyztuvw", shape, strict=False))
        expected = ", ".join("xyzt"[:longest])
        raise FileError(
            f"'{path}' has {count} axes ({named}), expected {expected}; save one time point as a volume, or take all "
            f"with infer.py {setting('time_lapse')}"
        )
    return tuple(shape[:longest])


def _dtype(header: Any, path: Path) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = np.dtype(header.get_data_dtype())
    except (HeaderDataError, KeyError) as error:
        raise FileError(f"'{path}' holds voxels of an unknown type ({one_line(error)})") from error
    check_dtype(dtype, path)
    return dtype


def _offset(header: Any, path: Path) -> int:
    stated = float(header["vox_offset"])
    least = int(header.template_dtype.itemsize) + 4
    if not stated <= least + _LONGEST_EXTENSIONS:
        raise FileError(f"'{path}': its NIfTI header says that the voxels start at byte {stated:g}")
    return max(int(stated), least)


def _scaling(header: Any, path: Path) -> tuple[float, float]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not math.isfinite(slope):
        return 1.0, 0.0
    if not math.isfinite(intercept):
        raise FileError(f"'{path}': its NIfTI header scales the voxels by {slope:g} and adds {intercept}")
    return slope, intercept


def _interval(header: Any) -> tuple[float | None, tuple[str, ...]]:
    """Return the seconds from one time point to the next, None where no unit is stated, and the note on that."""
    factor = {8: 1.0, 16: 1e-3, 24: 1e-6}.get(int(header["xyzt_units"]) & 0x38)
    step = float(header["pixdim"][4])
    if factor is not None:
        return step * factor, ()
    # A step of 1 is what writers put where they know of none.
    return None, (without_interval(step),) if math.isfinite(step) and step > 0 and step != 1 else ()


def _is_geometry_of(header: Any, volume: Volume, path: Path) -> bool:
    # One that was read with a spacing given has another geometry, unless it could be read without.
    try:
        found = geometry_of(header, path)
    except FileError:
        return False
    return (
        np.array_equal(found["directions"], volume.directions)
        and np.array_equal(found["origin"], volume.origin)
        and (found["space"], found["units"]) == (volume.space, volume.units)
    )


def _set_geometry(header: Any, volume: Volume, path: Path) -> None:
    try:
        placed = volume.in_space(SPACE)
    except InputError as error:
        raise FileError(f"cannot write '{path}': {error}") from error
    units = _UNITS_CONVERTED.get(placed.units, placed.units)
    factor = 1.0 if units == placed.units else MICROMETRES_PER[placed.units] / MICROMETRES_PER[units]
    affine = np.eye(4)
    affine[:3, :3] = placed.directions[::-1].T * factor
    affine[:3, 3] = placed.origin * factor
    header.set_sform(affine, _SCANNER)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = affine[:3, :3] / lengths
    if np.allclose(cosines.T @ cosines, np.eye(3), atol=1e-6):
        header.set_qform(affine, _SCANNER)
    else:
        # A quaternion cannot shear: the sform alone tells the axes.
        header["qform_code"] = 0
        header["pixdim"][1:4] = lengths
    # The three low bits are the unit of length, the others that of time.
    header["xyzt_units"] = (int(header["xyzt_units"]) & ~7) | UNIT_CODES[units]
