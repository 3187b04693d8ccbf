"""Taught and larger networks segment an OME-Zarr part by part: the numbers of the whole volume, in little memory."""

import json
import tracemalloc

import numpy as np
import pytest
import torch
from taught_networks import CUBES, THICK, in_small_parts, taught, trees, weights_of, with_grids

from micronet import predict
from micronet.core.errors import InputError
from micronet.core.ram import PROGRAM, Allowance
from micronet.core.volume import Volume, upright
from micronet.io import read_volume, write_volume
from micronet.networks import engine
from micronet.networks.taught import Member, Taught
from micronet.segment.box_plan import BoxNeed, BoxPlan, plan_boxes
from micronet.segment.boxes import predict_in_boxes
from micronet.segment.job import Job, check_results, segment_file
from micronet.segment.shelf import LocalShelf
from micronet.training.teach.job import TeachJob, teach_file

pytest.importorskip("zarr", "3.0", reason="the extra 'zarr' is not installed")


def segment(path, weights, output, **settings):
    lines, ticks = [], []
    job = Job(output, **settings)
    check_results([path], weights.path, job)
    segment_file(path, weights, job, say=lines.append, on_tile=lambda done, total: ticks.append((done, total)))
    assert [done for done, _ in ticks] == list(range(1, len(ticks) + 1))
    assert not ticks or ticks[-1][0] == ticks[-1][1]
    return "\n".join(lines)


def levels(probability):
    return np.rint(probability * 255).astype(np.uint8)


@pytest.mark.parametrize(("spacing", "depth"), [(CUBES, 31), (THICK, 43)])
def test_boxes_of_any_size_give_the_bits_of_the_whole_volume(spacing, depth, rng, tmp_path):
    array = rng.gamma(2, 40, (27, 43, 29)).astype(np.uint16)
    model = taught(rng, spacing)
    expected = predict(Volume(array, upright(spacing)), model, y_crop=depth)[:, :depth]
    assert 0.05 < np.mean(expected > 0.5) < 0.95
    halo = (max(one.network.reach(spacing)[0] for one in model.members), 7, 0)
    for sides in ((5, 16, 29), (26, 9, 29)):
        plan = BoxPlan((27, depth, 29), sides, halo, 5, 0, 0, (24.0, 12.0))
        with LocalShelf(tmp_path, ()) as shelf:
            shelf.put("image", array)
            done = predict_in_boxes(shelf, model, plan, spacing)
            np.testing.assert_array_equal(shelf["probability.1"][:], expected)
        assert done.foreground == np.count_nonzero(expected > 0.5)


def test_a_box_looks_no_farther_than_features_reach(rng):
    model = taught(rng, CUBES)
    plan = plan_boxes((300, 200, 100), model, CUBES, BoxNeed(0, 0, 1, Allowance(PROGRAM + 90_000_000, "")))
    # A Gaussian of 3 µm ends at 4 of them, 6 voxels of 2 µm; derivatives look one farther.
    assert plan.halo == (7, 7, 0)
    window, within = plan.window((slice(0, 10), slice(20, 40), slice(0, 100)))
    assert window == (slice(0, 17), slice(13, 47), slice(0, 100))
    assert within == (slice(0, 10), slice(7, 27))
    assert plan.count > 1
    assert plan.needed <= PROGRAM + 90_000_000


@pytest.mark.parametrize("form", [np.uint8, np.float32])
def test_what_was_taught_segments_a_store_as_the_same_volume_in_memory(form, rng, tmp_path):
    array = rng.gamma(2, 30, (40, 60, 36)).astype(form)
    volume = Volume(array, upright(CUBES), units="um")
    weights = weights_of(taught(rng, CUBES, logarithm=True), tmp_path, "taught_a")
    whole, store = write_volume(tmp_path / "a.nrrd", volume), write_volume(tmp_path / "b.ome.zarr", volume)
    segment(whole, weights, tmp_path / "whole", y_crop=55)
    said = segment(store, weights, tmp_path / "out", y_crop=55)
    found = read_volume(tmp_path / "out" / "b_probability.ome.zarr")
    np.testing.assert_array_equal(found.array, read_volume(tmp_path / "whole" / "a_probability.nrrd").array)
    assert found.spacing_um == CUBES
    assert "the logarithm of what is stored, as the network was taught" in said
    assert "1 boxes of 40 x 55 x 36 voxels" in said
    records = [json.loads((tmp_path / name).read_text()) for name in ("whole/a.json", "out/b.json")]
    assert records[0]["result"]["voxels"] == records[1]["result"]["voxels"] > 0
    assert records[1]["memory"]["boxes_zyx"] == [40, 55, 36]
    assert records[1]["iterations"][0]["flipped"] == records[0]["iterations"][0]["flipped"]


def test_boxes_never_hold_a_float_array_of_the_volume(rng, tmp_path):
    shape = (200, 64, 48)
    model = Taught([Member("trees", trees(rng)), Member("trees", trees(rng))], CUBES)
    plan = BoxPlan(shape, (12, 16, 48), (*model.members[0].network.reach(CUBES)[:2], 0), 1, 0, 0)
    with LocalShelf(tmp_path, ()) as shelf:
        shelf.make("image", shape, (10, 64, 48), np.uint8)
        shelf["image"][:] = rng.integers(0, 255, shape, np.uint8)
        predict_in_boxes(shelf, model, plan, CUBES)  # kernels are loaded
        shelf.drop("probability.1")
        tracemalloc.start()
        predict_in_boxes(shelf, model, plan, CUBES)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 * np.prod(shape) / 2


@pytest.mark.parametrize(
    ("shape", "spacing", "depth", "step_um"),
    [((7, 90, 43), THICK, 83, 2.0), ((40, 45, 37), CUBES, 45, 2.0), ((11, 71, 97), THICK, 71, 3.1)],
)
def test_micro_nets_on_grids_of_their_own_give_the_bits_of_the_whole_volume(
    shape, spacing, depth, step_um, rng, tmp_path
):
    array = rng.gamma(2, 40, shape).astype(np.uint16)
    model = with_grids(rng, spacing, step_um)
    expected = predict(Volume(array, upright(spacing)), model, y_crop=depth)[:, :depth]
    assert expected.std() > 0.01
    size, ticks = (shape[0], depth, shape[2]), []
    plan = in_small_parts(plan_boxes(size, model, spacing, BoxNeed(0, 0, 2, Allowance(None, ""))))
    assert all(grid.tiles.count > 1 for grid in plan.grids)
    with LocalShelf(tmp_path, plan.in_memory) as shelf:
        shelf.put("image", array)
        predict_in_boxes(shelf, model, plan, spacing, lambda: ticks.append(1))
        np.testing.assert_array_equal(shelf["probability.1"][:], expected)
    assert len(ticks) == plan.count


def test_a_taught_network_with_a_micro_net_segments_a_store_as_the_same_volume_in_memory(rng, tmp_path):
    volume = Volume(rng.gamma(2, 30, (9, 60, 45)).astype(np.uint8), upright(THICK), units="um")
    weights = weights_of(with_grids(rng, THICK, 2.0), tmp_path, "taught_a")
    whole, store = write_volume(tmp_path / "a.nrrd", volume), write_volume(tmp_path / "b.ome.zarr", volume)
    segment(whole, weights, tmp_path / "whole", y_crop=55)
    said = segment(store, weights, tmp_path / "out", y_crop=55)
    found = read_volume(tmp_path / "out" / "b_probability.ome.zarr").array
    np.testing.assert_array_equal(found, read_volume(tmp_path / "whole" / "a_probability.nrrd").array)
    assert "a grid of 45 x 55 x 45 in 1 tiles of 45 x 55 x 45 voxels" in said
    record = json.loads((tmp_path / "out" / "b.json").read_text())
    assert [grid["shape_zyx"] for grid in record["memory"]["grids"]] == [[45, 55, 45], [37, 46, 37], [45, 55, 45]]


def test_boxes_and_grids_take_no_more_memory_than_is_told(rng, tmp_path):
    shape = (24, 400, 120)
    model = with_grids(rng, THICK, 2.5)
    allowed = Allowance(PROGRAM + 60_000_000, "")
    plan = plan_boxes(shape, model, THICK, BoxNeed(0, 0, 1, allowed))
    assert plan.boxes > 1
    assert plan.needed <= allowed.bytes
    with LocalShelf(tmp_path, plan.in_memory) as shelf:
        shelf.make("image", shape, (4, 400, 120), np.uint8)
        shelf["image"][:] = rng.integers(0, 255, shape, np.uint8)
        tracemalloc.start()
        predict_in_boxes(shelf, model, plan, THICK)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < plan.needed - PROGRAM


def test_grids_are_for_the_numba_engine_and_others_are_refused_in_one_line(rng, tmp_path):
    path = write_volume(tmp_path / "a.ome.zarr", Volume(rng.integers(0, 255, (20, 40, 36), np.uint8), upright(CUBES)))
    weights = weights_of(with_grids(rng, CUBES, 4.0), tmp_path, "taught_a")
    engine.choose("torch")
    with pytest.raises(InputError, match=r"only the numba engine .* .taught_a.pt. .*\(settings: engine, device\)"):
        segment(path, weights, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_store_of_which_not_even_the_box_of_the_labels_fits_is_one_line_that_says_what_to_do(rng, tmp_path):
    array = rng.integers(0, 255, (20, 40, 36), np.uint8)
    path = write_volume(tmp_path / "a.ome.zarr", Volume(array, upright(CUBES), units="um"))
    labels = write_volume(tmp_path / "labels.nrrd", Volume((array % 3).astype(np.uint8), upright(CUBES), units="um"))
    job = TeachJob(labels, tmp_path / "taught", tmp_path / "weights", max_ram=1000)
    with pytest.raises(
        InputError, match=r"labels.nrrd' does not fit into memory: to read it takes about .*; give the labels as"
    ):
        teach_file(path, job, say=print)
    assert not (tmp_path / "taught").exists()


def test_voxels_of_quite_another_size_and_too_little_memory_are_one_line(rng, tmp_path):
    array = rng.integers(0, 255, (20, 40, 36), np.uint8)
    weights = weights_of(taught(rng, CUBES), tmp_path, "taught_a")
    path = write_volume(tmp_path / "a.ome.zarr", Volume(array, upright((20.0, 2.0, 2.0)), units="um"))
    with pytest.raises(InputError, match=r"a.ome.zarr': voxels of 20 x 2 x 2 µm, and the weights were taught on"):
        segment(path, weights, tmp_path / "out")
    path = write_volume(tmp_path / "b.ome.zarr", Volume(array, upright(CUBES), units="um"))
    with pytest.raises(InputError, match=r"b.ome.zarr': about .* needed even in boxes, .* \(setting: max_ram\)"):
        segment(path, weights, tmp_path / "out", max_ram=1000)


@pytest.mark.parametrize("wish", [{"window": 16}, {"window": 16, "border": 4}, {"window": 24, "overlap": 0.25}])
def test_a_larger_network_segments_a_store_as_the_same_volume_in_memory(wish, rng, tmp_path):
    pytest.importorskip("monai", reason="the extra 'networks' is not installed")
    from micronet.networks.library import Build, UNet

    torch.manual_seed(3)
    weights = weights_of(UNet(Build(depth=1, start_channels=2)).eval(), tmp_path, "unet_a")
    volume = Volume(rng.integers(0, 255, (29, 50, 35), np.uint8), upright(CUBES), units="um")
    whole, store = write_volume(tmp_path / "a.nrrd", volume), write_volume(tmp_path / "b.ome.zarr", volume)
    segment(whole, weights, tmp_path / "whole", y_crop=41, **wish)
    said = segment(store, weights, tmp_path / "out", y_crop=41, **wish)
    found = read_volume(tmp_path / "out" / "b_probability.ome.zarr").array
    np.testing.assert_array_equal(found, read_volume(tmp_path / "whole" / "a_probability.nrrd").array)
    assert len(np.unique(found)) > 3
    assert f"windows of {wish['window']} x {wish['window']} x {wish['window']} voxels" in said
    record = json.loads((tmp_path / "out" / "b.json").read_text())
    assert record["memory"]["windows"]["sides_zyx"] == [wish["window"]] * 3
    with pytest.raises(InputError, match=r"b.ome.zarr': about .* needed even in .* \(setting: max_ram\)"):
        segment(store, weights, tmp_path / "other", max_ram=1000, **wish)
