"""Evening out the brightness of a volume."""

import numpy as np
import pytest
from scipy import ndimage

from micronet.networks.evening import evened


@pytest.fixture
def image(rng) -> np.ndarray:
    return np.abs(ndimage.gaussian_filter(rng.normal(size=(6, 60, 70)), (0, 2, 2))).astype(np.float32)


def test_a_gain_and_an_offset_change_nothing(image):
    np.testing.assert_allclose(evened(3 * image + 7, (1, 1, 1), 8.0), evened(image, (1, 1, 1), 8.0), atol=1e-4)


@pytest.mark.parametrize(("spacing", "sigmas"), [((5.0, 1.0, 1.5), (0, 4, 4 / 1.5)), ((1.0, 1.0, 1.0), (4, 4, 4))])
def test_it_is_the_logarithm_minus_its_local_mean_within_planes_where_they_are_thick(rng, spacing, sigmas):
    image = np.abs(ndimage.gaussian_filter(rng.normal(size=(30, 40, 50)), 1)).astype(np.float32)
    dark = np.quantile(image, 0.005)
    above = np.maximum(image - dark, 0)
    logarithm = np.log(above + 0.2 * above.mean())
    expected = logarithm - ndimage.gaussian_filter(logarithm, sigmas, mode="nearest")
    found = evened(image, spacing, 4.0)
    assert found.dtype == np.float32
    inner = np.s_[10:-10, 10:-10, 10:-10]  # near the faces running means weigh the last voxel otherwise
    assert np.abs(found - expected)[inner].max() < 0.05


def test_planes_that_get_darker_come_out_alike():
    rng = np.random.default_rng(3)
    plane = 20 + 5 * rng.random((60, 60))
    plane[20:30] += 60
    image = np.stack([plane, plane / 3]).astype(np.float32)
    found = evened(image, (5, 1, 1), 20.0)
    contrast = [found[z, 25].mean() - found[z, 5].mean() for z in (0, 1)]
    raw = [image[z, 25].mean() - image[z, 5].mean() for z in (0, 1)]
    assert raw[1] / raw[0] == pytest.approx(1 / 3)
    assert contrast[1] / contrast[0] > 0.6


def test_a_constant_image_is_even():
    assert not evened(np.full((2, 9, 9), 4.0, np.float32), (1, 1, 1), 3.0).any()
