"""Antialiased decimation against scikit-image, tones and numbers by hand; masks on another grid against scipy."""

import numpy as np
import pytest
from scipy.ndimage import affine_transform
from skimage.transform import resize

from micronet.core.errors import InputError
from micronet.core.resample import antialias_sigma, decimate, decimate_planes, output_size, sample_planes


@pytest.mark.parametrize(
    ("size", "ratio", "expected"),
    [(9, 2.25, 4), (10, 2.25, 5), (8, 2, 4), (1, 3, 1), (3, 0.5, 6), (100, 1 + 1e-12, 100), (100, 4.5 / 2, 45)],
)
def test_the_last_voxel_covers_what_is_left(size, ratio, expected):
    assert output_size(size, ratio) == expected


def test_two_voxels_to_one_by_hand():
    # Without a Gaussian an output voxel is the mean of the two it lies between; the last mirrors the edge.
    ramp = np.arange(5.0).reshape(5, 1, 1)
    assert decimate(ramp, (2, 1, 1), (0, 0, 0)).ravel().tolist() == [0.5, 2.5, 4.0]


def test_the_gaussian_by_hand():
    # sigma 1 cut at 4: weights exp(-k²/2) over their sum 2.506628; a spike in the middle of 9 voxels.
    spike = np.zeros((1, 1, 9))
    spike[0, 0, 4] = 1
    weights = np.exp(-0.5 * np.arange(-4, 5) ** 2.0)
    assert decimate(spike, (1, 1, 1), (0, 0, 1)).ravel() == pytest.approx(weights / weights.sum(), rel=1e-6)


@pytest.mark.parametrize("ratio", [1.7, 2.25, 3.5])
def test_a_ramp_tells_where_output_voxels_lie(ratio):
    ramp = np.arange(200.0).reshape(1, 200, 1)
    found = decimate(ramp, (1, ratio, 1)).ravel()
    expected = ratio * (np.arange(len(found)) + 0.5) - 0.5
    inner = slice(8, len(found) - 8)
    assert found[inner] == pytest.approx(expected[inner], abs=1e-3)


def test_a_constant_stays_what_it_is_beyond_every_edge():
    for ratios in ((2.25, 1.3, 0.7), (9.0, 3.3, 1.0)):
        assert decimate(np.full((7, 5, 9), 3.0), ratios) == pytest.approx(3.0, rel=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("ratio", [1.01, 1.1, 1.5, 2.0, 2.25, 3.7, 6.0])
def test_tones_above_the_new_nyquist_frequency_lose_20_db(axis, ratio):
    frequencies = np.repeat(np.linspace(0.5 / ratio, 0.5, 12), 2)
    phases = np.tile([0, np.pi / 2], 12)
    tones = np.sin(2 * np.pi * frequencies * np.arange(600)[:, None] + phases)[:, :, None]  # along axis 0
    order = {0: (0, 1, 2), 1: (1, 0, 2), 2: (1, 2, 0)}[axis]
    left = decimate(tones.transpose(order), [ratio if i == axis else 1.0 for i in range(3)])
    inner = np.moveaxis(left, axis, 0)[40 if ratio < 3 else 8 :][: -40 if ratio < 3 else -8]
    assert inner.shape[0] > 50
    assert np.abs(inner).max() <= 0.1


def test_slow_tones_pass():
    tone = np.sin(2 * np.pi * np.arange(900) / 90).reshape(900, 1, 1)  # 40 output voxels a period
    assert np.abs(decimate(tone, (2.25, 1, 1))).max() > 0.97


def test_the_width_is_the_narrowest_that_does():
    for ratio in (1.05, 1.5, 2.25, 4.5):
        sigma = antialias_sigma(ratio)
        steps = np.arange(-40, 41)
        for width, low, high in ((sigma, 0.0985, 0.0995), (0.98 * sigma, 0.1, 0.2)):
            weights = np.exp(-0.5 * (steps / width) ** 2)
            response = (weights * np.cos(np.pi * steps / ratio)).sum() / weights.sum()
            assert low < response < high
    assert antialias_sigma(1.0) == antialias_sigma(0.3) == 0


@pytest.mark.parametrize(
    ("shape", "ratios"),
    [((27, 36, 45), (2.25, 2.25, 1.5)), ((20, 21, 24), (4, 1, 3)), ((18, 10, 12), (4.5, 0.5, 2.4))],
)
@pytest.mark.parametrize("convention", ["ours", "scikit-image"])
def test_it_is_what_scikit_image_computes(rng, shape, ratios, convention):
    array = rng.random(shape)
    sigmas = [antialias_sigma(r) if convention == "ours" else max(0, (r - 1) / 2) for r in ratios]
    found = decimate(array, ratios, sigmas)
    given = {"anti_aliasing_sigma": sigmas} if convention == "ours" else {}  # its own default otherwise
    expected = resize(array, found.shape, order=1, mode="symmetric", anti_aliasing=True, **given)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-6


def test_planes_one_by_one_give_the_same_bits_as_the_whole(rng):
    array = rng.random((40, 30, 20)).astype(np.float32)
    ratios = (3.3, 2.25, 1.8)
    planes = decimate_planes((plane for plane in array), array.shape, ratios)
    assert np.stack(list(planes)).tobytes() == decimate(array, ratios).tobytes()
    # Along another axis the sums run in another order: the same up to float32 rounding.
    turned = decimate(array.transpose(2, 0, 1), (1.8, 3.3, 2.25)).transpose(1, 2, 0)
    assert np.abs(turned - decimate(array, ratios)).max() < 1e-6


def test_output_comes_as_soon_as_its_planes_are_there():
    given = 0

    def planes():
        nonlocal given
        for _ in range(100):
            given += 1
            yield np.ones((2, 2))

    stream = decimate_planes(planes(), (100, 2, 2), (2.25, 1, 1))
    next(stream)
    assert given == 1 + int(1.125 - 0.5) + 1 + int(4 * antialias_sigma(2.25) + 0.5)


@pytest.mark.parametrize(
    ("planes", "ratios", "message"),
    [
        (np.zeros((3, 2, 2)), (1, 1, 0), "positive ratios"),
        (np.zeros((3, 2, 2)), (1, 1), "positive ratios"),
        (np.zeros((2, 2, 2)), (2, 2, 2), "ended after 2 planes"),
        (np.zeros((4, 2, 2)), (2, 2, 2), "plane 3 of shape .* does not fit"),
        (np.zeros((3, 2, 5)), (2, 2, 2), "plane 0 of shape .* does not fit"),
    ],
)
def test_what_does_not_fit_is_refused(planes, ratios, message):
    with pytest.raises(InputError, match=message):
        list(decimate_planes(planes, (3, 2, 2), ratios))


@pytest.mark.parametrize("steps", [(0.44, 0.44, 0.44), (0.44, 2.5, -0.7), (1, 1, 1)])
def test_a_mask_on_another_grid_is_what_scipy_finds(rng, steps):
    mask = rng.random((9, 12, 15)) < 0.4
    shape = (11, 5, 13)
    starts = [0.1 if step > 0 else 14.2 for step in steps]
    there = np.stack(
        np.meshgrid(*[s + d * np.arange(n) for s, d, n in zip(starts, steps, shape, strict=True)], indexing="ij")
    )
    inside = ((there >= -0.5) & (there <= np.array(mask.shape).reshape(3, 1, 1, 1) - 0.5)).all(axis=0)
    for linear in (True, False):
        values = affine_transform(mask.astype(float), np.diag(steps), starts, shape, order=int(linear), mode="nearest")
        found = np.stack(list(sample_planes(mask, steps, starts, shape, linear=linear)))
        clear = np.abs(values - 0.5) > 1e-3  # a half is rounded up here and either way there
        assert np.array_equal((found & inside)[clear], ((values > 0.5) & inside)[clear])
        assert not found[~inside].any()


def test_a_mask_is_not_smeared_over_what_lies_outside_it():
    mask = np.ones((2, 2, 2), bool)
    found = np.stack(list(sample_planes(mask, (0.5, 0.5, 0.5), (-1.25, -1.25, -1.25), (8, 8, 8))))
    # Positions -1.25, -0.75, -0.25, .. : the third to the sixth lie within the voxels [-0.5, 1.5].
    expected = np.zeros((8, 8, 8), bool)
    expected[2:6, 2:6, 2:6] = True
    assert np.array_equal(found, expected)
