"""`predict_in_tiles` gives what `predict` gives, bit for bit, in less memory."""

import dataclasses

import numpy as np
import pytest
import torch

from micronet import predict
from micronet.core.errors import FileError, InputError
from micronet.core.ram import PROGRAM, Allowance
from micronet.core.volume import Volume
from micronet.io.pieces import ScratchPieces
from micronet.networks.models import MicroNet, MicroRNet
from micronet.networks.padding import Padding
from micronet.segment.refine import Refinement, has_settled
from micronet.segment.tile_plan import TilePlan, plan_tiles
from micronet.segment.tiles import predict_in_tiles, tile_passes


def network(kind):
    torch.manual_seed(4)
    return kind()


def plan_of(shape, *, sides=(24, 32, 20), coarse=(4, 8, 8), on_disk=True):
    return TilePlan(Padding(shape).shape, sides, coarse, on_disk, 0, 0)


@pytest.mark.parametrize("on_disk", [True, False])
@pytest.mark.parametrize("shape", [(40, 52, 61), (9, 70, 35)], ids=str)
@pytest.mark.parametrize("kind", [MicroNet, MicroRNet])
def test_tiles_give_the_whole_volumes_probability(kind, shape, on_disk, rng, tmp_path):
    image, model = rng.integers(0, 255, shape, np.uint8), network(kind)
    told, count = [], []
    how = Refinement(3, on_iteration=told.append)
    plan = plan_of(shape, sides=(32, 24, 20), on_disk=on_disk)
    with predict_in_tiles(image, Volume(image), model, tmp_path, plan, how, lambda: count.append(1)) as found:
        np.testing.assert_array_equal(found[:], predict(image, model, 3))
    assert len(count) == tile_passes(plan, model, how)
    assert not list(tmp_path.iterdir())
    assert [one.number for one in told] == ([1, 2, 3] if kind is MicroRNet else [1])


def test_crop_initial_mask_and_until_stable_are_those_of_the_whole_volume(rng, tmp_path):
    image, model = rng.normal(size=(33, 60, 50)).astype(np.float32), network(MicroRNet)
    with torch.no_grad():  # so little that what is fed back dies away
        for parameter in model.parameters():
            parameter *= 0.5
    mask = rng.random(image.shape) > 0.5
    told, whole = [], []
    options = {"initial_mask": mask, "y_crop": 41, "until_stable": True}
    how = Refinement(40, on_iteration=told.append, **options)
    with predict_in_tiles(image, Volume(image), model, tmp_path, plan_of((33, 41, 50)), how) as found:
        expected = predict(image, model, 40, on_iteration=whole.append, **options)
        np.testing.assert_array_equal(found[:], expected[:, :41])
    assert has_settled(told)
    assert len(told) == len(whole) < 40
    for one, other in zip(told, whole, strict=True):
        assert (one.largest_change, one.flipped, one.foreground) == (
            other.largest_change,
            other.flipped,
            other.foreground,
        )


def test_an_image_on_disk_is_read_as_one_in_memory(rng, tmp_path):
    image, model = rng.integers(0, 60000, (32, 48, 40), np.uint16), network(MicroNet)
    with ScratchPieces(tmp_path, image.shape, (8, 20, 64), image.dtype) as stored:
        stored[:] = image
        with predict_in_tiles(stored, Volume(image), model, tmp_path, plan_of(image.shape)) as found:
            np.testing.assert_array_equal(found[:], predict(image, model))


def test_a_folder_that_takes_no_file_is_told(tmp_path):
    with pytest.raises(FileError, match="cannot write an intermediate volume into"):
        ScratchPieces(tmp_path / "none", (2, 2), (2, 2))


def planned(shape, allowed, **more):
    options = {"refines": True, "held": 0, "least": 0, "itemsize": 1} | more
    return plan_tiles(shape, allowance=Allowance(allowed, "so much"), **options)


@pytest.mark.parametrize("allowed", [10**9, 2 * 10**9, 8 * 10**9])
@pytest.mark.parametrize("shape", [(64, 64, 64), (256, 1024, 1024), (1000, 2000, 4000), (32, 30000, 500)], ids=str)
def test_tiles_fit_into_the_memory_that_is_allowed(shape, allowed):
    plan = planned(shape, allowed)
    assert plan.needed <= allowed
    assert all(side % 4 == 0 for side in (*plan.sides, *plan.coarse_sides))


def test_more_memory_means_fewer_tiles_and_the_coarse_levels_stay_in_memory():
    small, large = (planned((1000, 1000, 1000), allowed) for allowed in (10**9, 16 * 10**9))
    assert small.count > large.count
    assert small.coarse_on_disk
    assert not large.coarse_on_disk
    assert small.scratch_bytes > large.scratch_bytes == 9 * 10**9
    assert "on disk" in small.words


def test_several_processes_get_tiles_alike_with_all_arrays_on_the_disk():
    alone = planned((1000, 1000, 1000), 16 * 10**9)
    shared = planned((1000, 1000, 1000), 16 * 10**9, processes=8)
    assert alone.count < 8 <= shared.count
    assert shared.coarse_on_disk
    assert shared.needed < alone.needed
    assert planned((1000, 1000, 1000), 16 * 10**9, processes=100).count >= 100


def test_the_lowest_level_is_a_step_of_one_of_several_processes_and_has_to_fit():
    with pytest.raises(InputError, match="even in tiles"):
        planned((10_000, 10_000, 10_000), 16 * 10**9, processes=128)
    assert planned((10_000, 10_000, 10_000), 26 * 10**9, processes=128).needed < 26 * 10**9


def test_too_little_memory_is_refused():
    with pytest.raises(InputError, match=r"even in tiles, so much; free memory or allow more \(setting: max_ram\)"):
        planned((1000, 1000, 1000), PROGRAM + 1000)
    with pytest.raises(InputError, match="even in tiles"):
        planned((100, 100, 100), 10**9, least=10**9)


def test_a_plan_for_another_shape_is_our_fault(rng, tmp_path):
    image = rng.integers(0, 255, (32, 32, 32), np.uint8)
    plan = dataclasses.replace(plan_of(image.shape), size=(32, 32, 36))
    with pytest.raises(AssertionError, match="a plan for"):
        predict_in_tiles(image, Volume(image), network(MicroNet), tmp_path, plan)
