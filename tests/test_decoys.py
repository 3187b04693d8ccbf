"""Decoys: each changes what it names and nothing else, and without them a phantom is plain."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from micronet.core.errors import InputError
from micronet.data.phantom import ALL_DECOYS, DECOYS, PRESETS, Decoys, Optics, lumen_mask, only, render_oct, varied
from micronet.data.phantom.decoys import varied_decoys
from micronet.data.phantom.scenery import Scenery

SHAPE = (64, 80, 64)
QUIET = Optics(body_texture=0.0, wall_texture=0.0, speckle_average_vox=3.0)
SHEET = 20  # voxels of depth, of `scenery`


@pytest.fixture(scope="module")
def mask():
    return lumen_mask(SHAPE, np.random.default_rng(7))


def scenery(mask, seed=1, **amounts):
    sheet = np.full((SHAPE[0], SHAPE[2]), SHEET, np.float32)
    return Scenery(Decoys(**amounts), mask, sheet, 4.5, (np.random.default_rng(seed), None))


def dimmed(mask, **amounts):
    blood = np.zeros(SHAPE, np.float32)
    scenery(mask, **amounts).dim(blood, 0)
    return -blood


def image(mask, decoys, **more):
    return render_oct(mask, np.random.default_rng(8), dataclasses.replace(QUIET, decoys=decoys), **more).astype(float)


@pytest.mark.parametrize("name", DECOYS)
def test_each_decoy_alone_changes_the_image(mask, name):
    decoys = only([name])
    more = {field: 10 * value for field, value in DECOYS[name].items() if field.endswith("_mm2")}
    assert (image(mask, dataclasses.replace(decoys, **more)) != image(mask, Decoys())).any()


def test_all_decoys_are_the_same_on_any_number_of_threads(mask):
    one, three = (image(mask, ALL_DECOYS, threads=threads) for threads in (1, 3))
    np.testing.assert_array_equal(one, three)


def test_name_that_is_no_decoy_is_refused():
    with pytest.raises(InputError, match="'dragons' is no decoy; they are somites, head-folds"):
        only(["dragons"])


def test_presets_have_all_decoys_or_one_or_none():
    assert PRESETS["oct"].decoys == ALL_DECOYS
    assert PRESETS["plain"].decoys == Decoys()
    for name, amounts in DECOYS.items():
        assert PRESETS[name].decoys == Decoys(**amounts)


def test_share_of_lumens_without_blood_is_dimmer_than_blood(mask):
    dimming = dimmed(mask, empty_share=0.25, empty_loss=1.5)
    assert (dimming[mask] > 0.75).mean() == pytest.approx(0.25, abs=0.05)
    assert dimming.max() == pytest.approx(1.5, abs=0.01)


def test_share_of_walls_that_fade_is_that_of_the_volume(mask):
    in_wall = np.ones(SHAPE, np.float32)
    scenery(mask, faded_share=0.2, faded_um=20.0).fade(in_wall, 0)
    assert (in_wall < 0.5).mean() == pytest.approx(0.2, abs=0.04)


def test_shadow_takes_away_below_the_yolk_sac_only(mask):
    depth = np.broadcast_to((np.arange(SHAPE[1]) - SHEET)[None, :, None], SHAPE).astype(np.float32)
    level = np.zeros(SHAPE, np.float32)
    scenery(mask, shadows_per_mm2=100.0, shadow_loss=0.7).on_the_way(level, depth, 0)
    assert abs(level[:, : SHEET - 8]).max() < 1e-4
    assert level.min() < -0.3
    below = level[:, SHEET + 9 :]
    np.testing.assert_allclose(below, below[:, :1].repeat(below.shape[1], 1), atol=1e-4)  # straight down


def test_saturated_line_is_brighter_at_every_depth(mask):
    level = np.zeros(SHAPE, np.float32)
    scenery(mask, lines_per_mm2=200.0, line_gain=1.5).on_the_way(level, np.zeros(SHAPE, np.float32), 0)
    lines = level[:, 0] > 0
    assert 5 < lines.sum() < 40  # 200 on 0.083 mm²: 17
    np.testing.assert_array_equal(level, np.float32(1.5) * lines[:, None].repeat(SHAPE[1], 1))


def test_b_scans_are_shifted_along_depth_by_as_much_as_told(mask):
    ramp = np.broadcast_to(np.arange(SHAPE[1], dtype=np.float32)[None, :, None], SHAPE).copy()
    moved = scenery(mask, motion_um=9.0).moved(ramp, 0)
    shift = (ramp - moved)[:, 30]  # a ramp of one a voxel
    np.testing.assert_allclose(shift, shift[:, :1].repeat(SHAPE[2], 1), atol=1e-4)  # a B-scan moves as one
    assert shift[:, 0].std() == pytest.approx(2.0, rel=0.3)


def test_bubbles_lie_in_the_medium_and_throw_shadows(mask):
    depth = np.broadcast_to((np.arange(SHAPE[1]) - SHEET)[None, :, None], SHAPE).astype(np.float32)
    level = np.zeros(SHAPE, np.float32)
    bubbles = scenery(mask, bubbles_per_mm2=60.0, bubble_um=50.0)
    bubbles.into_medium(level, depth, 3.0, 0)
    assert (level[:, SHEET:] == 0).all()
    assert level.max() > 0.5  # the rim
    assert level.min() < -3  # nothing within
    bubbles.on_the_way(level, depth, 0)
    assert level[:, -1].min() < -0.5


def test_somites_have_the_grey_of_blood_and_lie_in_the_body(mask):
    depth = np.broadcast_to((np.arange(SHAPE[1]) - SHEET)[None, :, None], SHAPE).astype(np.float32)
    level = np.zeros(SHAPE, np.float32)
    scenery(mask, somites_per_mm2=100.0, somite_um=70.0).into_body(level, depth, -1.7, 8.0, 1.4, 0)
    assert level.max() == pytest.approx(1.4, abs=0.02)
    assert abs(level[:, : SHEET + 2]).max() < 0.02
    assert ndimage.label(level > 0.7)[1] >= 1


def test_decoy_keeps_its_places_when_another_is_added(mask):
    alone = dimmed(mask, empty_share=0.2)
    np.testing.assert_array_equal(dimmed(mask, empty_share=0.2, crack_share=0.1, motion_um=1.0), alone)


def test_decoys_of_an_embryo_stay_where_they_are_at_every_time_point(mask):
    optics = dataclasses.replace(QUIET, decoys=only(["cracks", "somites", "amnion"]), white=5.0)

    def still(time, embryo):
        speckle = np.random.default_rng([3, time])
        return render_oct(mask, speckle, optics, embryo=None if embryo is None else np.random.default_rng(embryo))

    def apart(one, other):
        return np.abs(one.astype(float) - other).mean()

    assert apart(still(0, [3, 0]), still(1, [3, 0])) < 0.5 * apart(still(0, None), still(1, None))
    np.testing.assert_array_equal(still(0, [3, 0]), still(0, None))


def test_motion_is_that_of_the_scan_also_within_an_embryo(mask):
    ramp = np.broadcast_to(np.arange(SHAPE[1], dtype=np.float32)[None, :, None], SHAPE).copy()
    sheet = np.full((SHAPE[0], SHAPE[2]), SHEET, np.float32)
    first, second = (
        Scenery(Decoys(motion_um=9.0), mask, sheet, 4.5, (np.random.default_rng(scan), np.random.default_rng(5)))
        for scan in (1, 2)
    )
    assert (first.moved(ramp, 0) != second.moved(ramp, 0)).mean() > 0.5


def test_varied_decoys_surround_the_given_and_what_is_absent_stays_absent():
    rng = np.random.default_rng(1)
    drawn = [varied_decoys(ALL_DECOYS, rng) for _ in range(200)]
    for name in ("crack_share", "somites_per_mm2", "shadow_um"):
        values = np.array([getattr(decoys, name) for decoys in drawn])
        assert np.median(values) == pytest.approx(getattr(ALL_DECOYS, name), rel=0.2)
        assert values.std() > 0.1 * getattr(ALL_DECOYS, name)
    assert max(decoys.still_share for decoys in drawn) <= 0.6
    assert all(varied(Optics(), rng).decoys.crack_share == 0 for _ in range(5))


def test_grain_correlates_speckle_along_depth_and_nowhere_else():
    empty = np.zeros((40, 60, 40), bool)
    grain = dataclasses.replace(QUIET, speckle_average_vox=0.01, speckle_grain_vox=0.65, black=-8.0, white=5.0)
    grey = render_oct(empty, np.random.default_rng(2), grain)[:, :10].astype(float)
    near = [
        np.corrcoef(grey[:, 1:].ravel(), grey[:, :-1].ravel())[0, 1],
        np.corrcoef(grey[1:].ravel(), grey[:-1].ravel())[0, 1],
    ]
    assert 0.1 < near[0] < 0.35  # as in frames of real OCT
    assert abs(near[1]) < 0.03
