"""Surfaces of masks and their files, opened again by trimesh."""

import numpy as np
import pytest
import trimesh
from shapes import ball, shell, torus

from micronet.core.errors import FileError, InputError
from micronet.core.volume import Volume, upright
from micronet.io import read_annotation
from micronet.io.mesh import MESH_FORMATS, write_mesh
from micronet.measure.surface import lumen_surface
from micronet.measure.topology import betti_numbers

UM = 4.5


def on_grid(mask, um=UM, **geometry):
    geometry.setdefault("space", "left-posterior-superior")
    return Volume(mask, directions=geometry.pop("directions", upright((um,) * 3)), units="um", **geometry)


def opened(path, mesh):
    write_mesh(path, mesh)
    return trimesh.load_mesh(path)


def winding_number(point, triangles):
    """Return how often a closed surface runs around a point: the sum of solid angles (Van Oosterom, Strackee 1983)."""
    a, b, c = (triangles - point).transpose(1, 0, 2)
    la, lb, lc = (np.linalg.norm(side, axis=1) for side in (a, b, c))
    ab, bc, ca = (np.einsum("ij,ij->i", left, right) for left, right in ((a, b), (b, c), (c, a)))
    volume = np.einsum("ij,ij->i", a, np.cross(b, c))
    return np.arctan2(volume, la * lb * lc + ab * lc + bc * la + ca * lb).sum() / (2 * np.pi)


@pytest.mark.parametrize("kind", MESH_FORMATS)
def test_trimesh_opens_what_was_written(tmp_path, kind):
    mesh = lumen_surface(on_grid(ball(8)))
    found = opened(tmp_path / f"ball.{kind}", mesh)
    assert found.is_watertight
    assert found.is_winding_consistent
    assert found.euler_number == 2
    assert len(found.faces) == len(mesh.triangles)
    assert found.volume == pytest.approx(4 / 3 * np.pi * (8 * UM) ** 3, rel=0.02)
    assert found.area == pytest.approx(4 * np.pi * (8 * UM) ** 2, rel=0.02)  # unsmoothed marching cubes have 8 % more
    middle = (np.array(ball(8).shape[::-1]) - 1) / 2 * UM
    np.testing.assert_allclose(found.center_mass, middle, atol=0.01)
    distances = np.linalg.norm(found.vertices - middle, axis=1)
    assert np.abs(distances - 8 * UM).max() < UM / 2


def test_positions_are_those_of_the_volume_whatever_its_axes(tmp_path, rng):
    turned = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    for flip in (1, -1):
        directions = turned * np.array([6.0, 2.0, 3.0])[:, None] * [[flip], [1], [1]]
        volume = on_grid(ball(5), directions=directions, origin=np.array([-400.0, 30.0, 1e3]))
        found = opened(tmp_path / "ball.ply", lumen_surface(volume))
        assert found.is_watertight
        assert found.volume > 0  # normals point outwards
        assert found.volume == pytest.approx(ball(5).sum() * 36, rel=0.03)
        centre = (np.array(ball(5).shape) - 1) / 2 @ directions + volume.origin
        np.testing.assert_allclose(found.center_mass, centre, atol=0.05)


def test_lengths_are_in_um_and_axes_left_posterior_superior(tmp_path):
    volume = Volume(
        ball(5),
        directions=upright((0.0045,) * 3),
        origin=np.array([1.0, 2.0, 3.0]),
        space="right-anterior-superior",
        units="mm",
    )
    mesh = lumen_surface(volume)
    assert (mesh.space, mesh.unit) == ("left-posterior-superior", "um")
    assert mesh.vertices.mean(axis=0) == pytest.approx([-1000 - 8 * 4.5, -2000 - 8 * 4.5, 3000 + 8 * 4.5], abs=0.05)
    for kind in MESH_FORMATS:
        path = write_mesh(tmp_path / f"a.{kind}", mesh)
        assert b"micronet lumen SPACE=LPS UNIT=um" in path.read_bytes()[:200]
        assert trimesh.load_mesh(path).volume > 0


def test_without_spacing_lengths_are_in_voxels():
    mesh = lumen_surface(Volume(ball(5)))
    assert mesh.unit == "voxel"
    assert np.ptp(mesh.vertices, axis=0) == pytest.approx([10.6] * 3, abs=0.3)


@pytest.mark.parametrize("mask", [ball(2), shell(8, 4), torus(9, 3)], ids=["ball", "shell", "torus"])
def test_the_surface_has_the_topology_of_the_mask(tmp_path, mask):
    found = opened(tmp_path / "a.ply", lumen_surface(on_grid(mask)))
    pieces, tunnels, cavities = betti_numbers(mask)
    assert found.is_watertight
    assert found.body_count == pieces + cavities
    assert found.euler_number == 2 * (pieces - tunnels + cavities)


@pytest.mark.parametrize("kind", MESH_FORMATS)
@pytest.mark.parametrize("density", [0.05, 0.3, 0.6])
def test_noise_is_watertight_too(tmp_path, rng, kind, density):
    found = opened(tmp_path / f"a.{kind}", lumen_surface(on_grid(rng.random((9, 10, 11)) < density)))
    assert found.is_watertight
    assert found.is_winding_consistent
    assert found.volume > 0


def test_a_lumen_that_leaves_the_volume_is_closed_where_it_ends(tmp_path):
    mask = ball(5)
    mask = mask[:, :, : mask.shape[2] // 2]
    found = opened(tmp_path / "half.stl", lumen_surface(on_grid(mask)))
    assert found.is_watertight
    assert found.volume == pytest.approx(mask.sum() * UM**3, rel=0.05)


def test_a_voxel_is_inside_when_it_is_in_the_mask(rng):
    mask = np.zeros((7, 8, 9), bool)
    mask[1:-1, 1:-1, 1:-1] = rng.random((5, 6, 7)) < 0.4
    mesh = lumen_surface(Volume(mask))
    centres = np.argwhere(np.ones_like(mask))[:, ::-1].astype(float)  # x, y, z
    turns = np.array([winding_number(centre, mesh.vertices[mesh.triangles]) for centre in centres])
    np.testing.assert_allclose(turns, mask.ravel(), atol=1e-6)


def test_published_annotations_are_watertight(shared, tmp_path):
    file = shared / "data/yolk_sac/annotations/annotation_082616_00_T46_iso_full.seg.nrrd"
    mask = read_annotation(file).mask
    mask = Volume(mask.array[:70, 40:140, 60:], directions=mask.directions, space=mask.space, units=mask.units)
    found = opened(tmp_path / "a.stl", lumen_surface(mask))
    assert found.is_watertight
    assert found.volume == pytest.approx(mask.array.sum() * 4.5**3, rel=0.02)


def test_what_has_no_surface_is_told(tmp_path):
    with pytest.raises(InputError, match="an empty mask has no surface"):
        lumen_surface(on_grid(np.zeros((3, 3, 3), bool)))
    with pytest.raises(InputError, match="bool mask, found uint8"):
        lumen_surface(on_grid(np.ones((3, 3, 3), np.uint8)))
    mesh = lumen_surface(on_grid(ball(2)))
    with pytest.raises(FileError, match=r"a.vtk': meshes are written as .stl, .ply, .obj"):
        write_mesh(tmp_path / "a.vtk", mesh)
    with pytest.raises(FileError, match="does not exist"):
        write_mesh(tmp_path / "nowhere" / "a.stl", mesh)
    assert not list(tmp_path.iterdir())
