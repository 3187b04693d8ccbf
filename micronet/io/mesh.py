"""Triangle meshes on disk: binary STL, binary PLY, OBJ, chosen by the suffix."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import FileError
from micronet.core.files import atomic_path

__all__ = ["MESH_FORMATS", "Mesh", "write_mesh"]

#: Formats that can be written: their suffixes without the dot.
MESH_FORMATS = ("stl", "ply", "obj")

# 3D Slicer looks for these words in a mesh's header.
_SPACE_WORDS = {"left-posterior-superior": "SPACE=LPS"}
_STL_HEADER = 80
_ROWS = 1 << 14


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles around a lumen.

    Parameters
    ----------
    vertices : ndarray of float64, shape (N, 3)
        Positions along the three world axes of the volume, in `unit`.
    triangles : ndarray of int32, shape (M, 3)
        Indices of vertices, anticlockwise seen from outside.
    space : str
        What the world axes mean: ``"left-posterior-superior"``, or what the volume states; ``""`` when that is nothing.
    unit : str
        ``"um"``, or ``"voxel"`` when the volume's spacing is not known.
    """

    vertices: NDArray[np.float64]
    triangles: NDArray[np.int32]
    space: str
    unit: str


def write_mesh(path: str | os.PathLike[str], mesh: Mesh) -> Path:
    """Write a mesh; the file appears whole or not at all.

    Parameters
    ----------
    path : path-like
        Ends with .stl, .ply (both binary, positions as float32) or .obj (text, nine digits). Unit and meaning of the
        axes stand in the header; no program reads the unit from there.
    mesh : Mesh

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    FileError
        If the suffix is another, or the file cannot be written.
    """
    target = Path(path)
    kind = target.suffix.lower().removeprefix(".")
    if kind not in MESH_FORMATS:
        raise FileError(
            f"cannot write '{target}': meshes are written as {', '.join('.' + one for one in MESH_FORMATS)}"
        )
    words = f"micronet lumen {_SPACE_WORDS.get(mesh.space, 'SPACE=' + (mesh.space or 'unstated'))} UNIT={mesh.unit}"
    with atomic_path(target) as temporary, temporary.open("wb") as stream:
        {"stl": _write_stl, "ply": _write_ply, "obj": _write_obj}[kind](stream, mesh, words)
    return target


def _write_stl(stream: BinaryIO, mesh: Mesh, words: str) -> None:
    stream.write(words.encode("ascii", "replace")[:_STL_HEADER].ljust(_STL_HEADER))
    stream.write(np.uint32(len(mesh.triangles)).astype("<u4").tobytes())
    for triangles in _blocks(mesh.triangles):
        corners = mesh.vertices[triangles].astype(np.float32)  # (M, 3 corners, 3)
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        lengths = np.linalg.norm(normals, axis=1, keepdims=True)
        records = np.zeros(len(corners), dtype=[("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
        records["normal"] = np.divide(normals, lengths, out=np.zeros_like(normals), where=lengths > 0)
        records["corners"] = corners
        stream.write(records.tobytes())


def _write_ply(stream: BinaryIO, mesh: Mesh, words: str) -> None:
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"comment {words}",
        f"element vertex {len(mesh.vertices)}",
        *(f"property float {axis}" for axis in "xyz"),
        f"element face {len(mesh.triangles)}",
        "property list uchar int vertex_indices",
        "end_header",
    ]
    stream.write(("\n".join(header) + "\n").encode("ascii", "replace"))
    for vertices in _blocks(mesh.vertices):
        stream.write(vertices.astype("<f4").tobytes())
    for triangles in _blocks(mesh.triangles):
        faces = np.zeros(len(triangles), dtype=[("count", "u1"), ("corners", "<i4", 3)])
        faces["count"], faces["corners"] = 3, triangles
        stream.write(faces.tobytes())


def _write_obj(stream: BinaryIO, mesh: Mesh, words: str) -> None:
    stream.write(f"# {words}\n".encode("ascii", "replace"))
    for vertices in _blocks(mesh.vertices):
        np.savetxt(stream, vertices, fmt="v %.9g %.9g %.9g")
    for triangles in _blocks(mesh.triangles):
        np.savetxt(stream, triangles + 1, fmt="f %d %d %d")


def _blocks(rows: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield rows some at a time, so that a mesh of millions is never in memory twice."""
    for first in range(0, len(rows), _ROWS):
        yield rows[first : first + _ROWS]
