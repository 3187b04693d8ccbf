"""Drift between time points, against shifts that are known and scikit-image."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.registration import phase_cross_correlation

from micronet.core.errors import InputError
from micronet.data.phantom import beating, render_oct
from micronet.segment import drift
from micronet.segment.drift import centroid, image_drift


@pytest.fixture
def texture(rng):
    """A smooth random volume, larger than what is looked at."""
    return ndimage.gaussian_filter(rng.random((60, 64, 68)), 2.0)


@pytest.mark.parametrize("moved", [(0, 0, 0), (3, -2, 5), (-4, 0, 1)])
def test_whole_voxels_are_found_though_the_borders_show_something_else(texture, moved):
    before = texture[8:-8, 8:-8, 8:-8]
    after = np.roll(texture, moved, (0, 1, 2))[8:-8, 8:-8, 8:-8]
    np.testing.assert_allclose(image_drift(before, after), moved, atol=0.25)
    oracle, _, _ = phase_cross_correlation(before, after, normalization=None)
    np.testing.assert_allclose(np.round(image_drift(before, after)), -oracle)


def test_fractions_of_a_voxel_are_found(texture):
    moved = (0.5, -1.25, 2.75)
    before, after = (ndimage.shift(texture, shift, order=3)[8:-8, 8:-8, 8:-8] for shift in ((0.0, 0.0, 0.0), moved))
    np.testing.assert_allclose(image_drift(before, after), moved, atol=0.2)


def test_beating_heart_and_new_speckle_leave_the_drift_within_a_voxel():
    rest, *_, contracted = beating((96, 88, 96), 2, 4)
    moved = (2, -1, 3)
    before, after = (
        np.roll(render_oct(mask, np.random.default_rng([2, t]), embryo=np.random.default_rng(2)), shift, (0, 1, 2))[
            6:-6, 6:-6, 6:-6
        ]
        for t, (mask, shift) in enumerate([(rest, (0, 0, 0)), (contracted, moved)])
    )
    np.testing.assert_allclose(image_drift(before, after), moved, atol=1.0)


def test_large_volumes_are_averaged_first(texture, monkeypatch):
    monkeypatch.setattr(drift, "_MOST_VOXELS", texture.size // 8 + 1)
    after = np.roll(texture, (4, -2, 6), (0, 1, 2))
    np.testing.assert_allclose(image_drift(texture[:59, :63], after[:59, :63]), (4, -2, 6), atol=0.6)


def test_constant_volumes_did_not_move():
    flat = np.full((32, 32, 32), 7, np.uint8)
    assert image_drift(flat, flat) == (0.0, 0.0, 0.0)


def test_different_shapes_are_refused():
    with pytest.raises(InputError, match=r"one shape \(Z, Y, X\), found \(3, 4, 5\) and \(3, 4, 6\)"):
        image_drift(np.zeros((3, 4, 5)), np.zeros((3, 4, 6)))


def test_centroid_is_that_of_scipy_and_none_where_nothing_is():
    mask = np.random.default_rng(1).random((5, 6, 7)) > 0.7
    np.testing.assert_allclose(centroid(mask), ndimage.center_of_mass(mask))
    assert centroid(np.zeros((3, 3, 3), bool)) is None
