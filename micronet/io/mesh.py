"""Triangle meshes on disk: binary STL, binary PLY, OBJ, chosen by the suffix."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from micronet.errors import FileError
from micronet.io.atomic import atomic_path

if TYPE_CHECKING:
    from micronet.surface import Mesh

__all__ = ["MESH_FORMATS", "write_mesh"]

#: Formats that can be written: their suffixes without the dot.
MESH_FORMATS = ("stl", "ply", "obj")

# 3D Slicer looks for these words in a mesh's header.
_SPACE_WORDS = {"left-posterior-superior": "SPACE=LPS"}
_STL_HEADER = 80


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
    corners = mesh.vertices[mesh.triangles].astype(np.float32)  # (M, 3 corners, 3)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    records = np.zeros(len(corners), dtype=[("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    records["normal"] = np.divide(normals, lengths, out=np.zeros_like(normals), where=lengths > 0)
    records["corners"] = corners
    stream.write(words.encode("ascii", "replace")[:_STL_HEADER].ljust(_STL_HEADER))
    stream.write(np.uint32(len(corners)).astype("<u4").tobytes())
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
    faces = np.zeros(len(mesh.triangles), dtype=[("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, mesh.triangles
    stream.write(("\n".join(header) + "\n").encode("ascii", "replace"))
    stream.write(mesh.vertices.astype("<f4").tobytes())
    stream.write(faces.tobytes())


def _write_obj(stream: BinaryIO, mesh: Mesh, words: str) -> None:
    stream.write(f"# {words}\n".encode("ascii", "replace"))
    np.savetxt(stream, mesh.vertices, fmt="v %.9g %.9g %.9g")
    np.savetxt(stream, mesh.triangles + 1, fmt="f %d %d %d")
