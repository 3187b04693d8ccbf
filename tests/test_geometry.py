"""A marked point keeps its place from a raw scan through every script and back."""

import csv
import math

import numpy as np
import pytest
import trimesh
from running import exit_code
from torch import no_grad

import evaluate
import infer
import prepare
from micronet import MicroNet, Volume, read_annotation, read_volume, write_volume
from micronet.data.scan import true_grid
from micronet.io import Segment, write_segmentation
from micronet.networks.weights import save_state

# Oblique, anisotropic, one axis flipped: steps along (Z, Y, X) in µm.
SPACING = (6.0, 2.7, 3.3)
SHAPE = (37, 90, 64)
INDEX = 1.2
RADIUS_UM = 21.0
# Voxels (Z, Y, X) of the raw scan, on no grid point.
MARKED = np.array([16.3, 47.6, 27.2])


def call(script, *arguments):
    assert exit_code(script, *arguments) == 0


def bright_is_lumen():
    """Return a µ-Net that calls lumen what is seven standard deviations above the mean: no shift, no blur."""
    network = MicroNet()
    level = 1.0507**2 * 7.0  # after two SELU, which only scale what is positive
    with no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for layer in (
            network.down0[0],
            network.down0[1],
            network.up0[0],
            network.up0[1],
            network.up0[3],
            network.up0[4],
        ):
            layer.weight[0, 0, 1, 1, 1] = 1.0
        network.up0[4].weight *= 20.0
        network.up0[4].bias[0] = -20.0 * level
    return network


def raw_scan(rng):
    """Return speckle with a bright ball around the marked point, on an oblique grid in µm of optical path."""
    first, second = 0.4, -0.7
    about_z = np.array([[math.cos(first), -math.sin(first), 0], [math.sin(first), math.cos(first), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, math.cos(second), -math.sin(second)], [0, math.sin(second), math.cos(second)]])
    axes = (about_z @ about_x)[::-1] * np.array([[1.0], [-1.0], [1.0]])
    grid = Volume(
        np.zeros(SHAPE, np.uint16),
        axes * np.array(SPACING)[:, None],
        np.array([120.0, -340.0, 56.0]),
        "left-posterior-superior",
        "um",
    )
    true = true_grid(grid, "Y", INDEX)
    index = np.indices(SHAPE).reshape(3, -1).T
    away = np.linalg.norm((index - MARKED) @ true.directions, axis=1).reshape(SHAPE)
    mean = np.where(away <= RADIUS_UM, 60_000.0, 300.0)
    return grid.with_array((mean * rng.uniform(0.8, 1.0, SHAPE)).astype(np.uint16)), true


def centre(mask):
    """Return the mean world position of a mask, in µm."""
    return np.argwhere(mask.array).mean(axis=0) @ mask.directions + mask.origin


def test_a_marked_point_ends_within_half_a_raw_voxel(tmp_path, monkeypatch, rng, engine_ready):
    monkeypatch.chdir(tmp_path)
    raw, true = raw_scan(rng)
    write_volume("scan.nrrd", raw)
    save_state(tmp_path / "checkpoints" / "u-net_bright.pt", bright_is_lumen().state_dict())
    marked_um = MARKED @ true.directions + true.origin

    call(prepare, "scan.nrrd", "--domain", "intensity", "--refractive-index", INDEX)
    structural = read_volume("struct_iso/scan.nrrd")
    assert structural.spacing_um == pytest.approx((4.5,) * 3)
    assert not np.allclose(np.abs(structural.directions).max(axis=1), 4.5)  # oblique still

    call(infer, "struct_iso/scan.nrrd", "--model", "u-net_bright", "--mesh", "ply", "--measures")
    found = read_annotation("predictions/scan.seg.nrrd").mask
    assert np.linalg.norm(centre(found) - marked_um) < 0.5

    index = np.indices(structural.shape).reshape(3, -1).T
    away = np.linalg.norm(index @ structural.directions + structural.origin - marked_um, axis=1)
    truth = structural.with_array((away <= RADIUS_UM).reshape(structural.shape))
    write_segmentation("truth.seg.nrrd", [(Segment(name="lumen"), truth.array)], truth)
    call(evaluate, "predictions/scan.seg.nrrd", "--annotation", "truth.seg.nrrd")
    with open("scores/scores.csv", encoding="utf-8") as stream:
        [scores] = csv.DictReader(line for line in stream if not line.startswith("#"))
    assert float(scores["dice"]) > 0.85
    assert float(scores["nsd"]) == 1
    assert float(scores["annotated_um3"]) == pytest.approx(4 / 3 * np.pi * RADIUS_UM**3, rel=0.03)

    mesh = trimesh.load_mesh("predictions/scan_lumen.ply")
    assert mesh.is_watertight
    assert np.linalg.norm(mesh.center_mass - marked_um) < 0.5
    with open("predictions/scan_centrelines.csv", encoding="utf-8") as stream:
        points = list(csv.DictReader(line for line in stream if not line.startswith("#")))
    line = np.array([[float(point[f"world_{axis}_um"]) for axis in (1, 2, 3)] for point in points])
    assert np.linalg.norm(line.mean(axis=0) - marked_um) < 4.5

    call(prepare, "predictions/scan.seg.nrrd", "--back-to", "scan.nrrd")
    back = read_annotation("predictions/scan_on_scan.seg.nrrd").mask
    assert back.shape == raw.shape
    np.testing.assert_allclose(back.directions, raw.directions, rtol=1e-6)
    np.testing.assert_allclose(back.origin, raw.origin, rtol=1e-6)
    assert np.abs(np.argwhere(back.array).mean(axis=0) - MARKED).max() < 0.5
