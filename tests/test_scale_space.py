"""Scale-space features: by hand, and against scipy in float64."""

import numpy as np
import pytest
from scipy import ndimage

from micronet.core.errors import InputError
from micronet.networks.kernels import feature_rows
from micronet.networks.kernels.scale_space import default_scales, feature_count, features, features_at, perceptron


def by_scipy(volume, scales_um, spacing_um):
    """Follow the definitions of the module's docstring, in float64."""
    volume = volume.astype(np.float64)
    found = [volume]

    def correlate(array, weights, axis):
        return ndimage.correlate1d(array, weights, axis=axis, mode="nearest")

    for scale in scales_um:
        steps = [scale / spacing for spacing in spacing_um]
        smooth = ndimage.gaussian_filter(volume, steps, mode="nearest", truncate=4.0)
        slopes = [steps[a] * correlate(smooth, [-0.5, 0, 0.5], a) for a in range(3)]
        hessian = np.empty((*volume.shape, 3, 3))
        for a in range(3):
            for b in range(3):
                if a == b:
                    hessian[..., a, a] = steps[a] ** 2 * correlate(smooth, [1, -2, 1], a)
                else:
                    hessian[..., a, b] = steps[b] * correlate(slopes[a], [-0.5, 0, 0.5], b)
        found += [smooth, np.sqrt(sum(slope**2 for slope in slopes))]
        found += list(np.moveaxis(np.linalg.eigvalsh(hessian), -1, 0))
    return np.stack(found)


@pytest.mark.parametrize(
    ("shape", "spacing_um"),
    [((21, 30, 37), (1.0, 1.0, 1.0)), ((10, 70, 33), (5.0, 1.2, 1.2)), ((3, 5, 4), (1.0, 2.0, 0.5))],
)
def test_features_are_those_of_scipy_in_float64(rng, shape, spacing_um):
    volume = rng.normal(3, 1, shape).astype(np.float32)  # an offset, from which second differences are taken
    scales = default_scales(spacing_um)
    expected = by_scipy(volume, scales, spacing_um)
    found = features(volume, scales, spacing_um, threads=2)
    assert found.shape == (31, *shape)
    assert found.dtype == np.float32
    errors = np.abs(found - expected).reshape(31, -1).max(1)
    assert (errors < 1e-4 * expected.reshape(31, -1).std(1)).all()  # what is wanted
    assert (errors < 1e-5 * expected.reshape(31, -1).std(1)).all()  # what is reached


def test_a_ramp_and_a_bowl_by_hand():
    z, y, x = np.meshgrid(*(np.arange(-20.0, 21.0),) * 3, indexing="ij")
    ramp = features((3 * x + 4 * y).astype(np.float32), (2.0,), (1.0, 1.0, 1.0))[:, 20, 20, 20]
    np.testing.assert_allclose(ramp, [0, 0, 2 * 5, 0, 0, 0], atol=1e-4)  # slope 5 per voxel, 10 per sigma
    bowl = features((z * z - 2 * y * y + 0.5 * x * x).astype(np.float32), (2.0,), (1.0, 1.0, 1.0))[:, 20, 20, 20]
    # Smoothing adds sigma² times half the trace; second derivatives are 2, -4 and 1 per voxel².
    np.testing.assert_allclose(bowl, [0, 4 * -0.5, 0, 4 * -4, 4 * 1, 4 * 2], atol=2e-2)


def test_a_magnified_image_has_the_same_features_at_scales_in_micrometres(rng):
    volume = rng.normal(size=(9, 12, 11)).astype(np.float32)
    small = features(volume, default_scales((5.0, 2.0, 2.0)), (5.0, 2.0, 2.0))
    large = features(volume, default_scales((20.0, 8.0, 8.0)), (20.0, 8.0, 8.0))
    np.testing.assert_array_equal(small, large)


@pytest.mark.parametrize("matrix", [np.diag([2.0, 2.0, 2.0]), np.diag([1.0, 1.0, -3.0]), np.zeros((3, 3)), None])
def test_eigenvalues_are_exact_where_they_are_equal_and_nearly_so(rng, matrix):
    count = 500
    base = rng.normal(size=(count, 3, 3)) if matrix is None else np.broadcast_to(matrix, (count, 3, 3))
    noise = rng.normal(size=(count, 3, 3)) * 10.0 ** rng.uniform(-17, -3, (count, 1, 1))
    turn = np.linalg.qr(rng.normal(size=(count, 3, 3)))[0]
    matrices = turn @ (base + noise) @ np.swapaxes(turn, 1, 2)
    matrices = (matrices + np.swapaxes(matrices, 1, 2)) / 2
    derivatives = np.zeros((9, count))
    places = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
    for row, (a, b) in enumerate(places, 3):
        derivatives[row] = matrices[:, a, b]
    found = np.empty((3, count))
    feature_rows._eigenvalues(derivatives, *found)
    np.testing.assert_allclose(found.T, np.linalg.eigvalsh(matrices), rtol=0, atol=1e-7)
    assert (np.diff(found, axis=0) >= 0).all()


def test_threads_and_slabs_do_not_change_a_bit(rng):
    volume = rng.normal(size=(23, 150, 19)).astype(np.float32)
    scales, spacing = (1.0, 3.0), (2.0, 1.0, 1.0)
    whole = features(volume, scales, spacing, threads=1)
    np.testing.assert_array_equal(features(volume, scales, spacing, threads=3), whole)
    for height in (1, 4, 10):
        for first in range(0, 23, height):
            planes = slice(first, first + height)
            np.testing.assert_array_equal(features(volume, scales, spacing, planes, threads=2), whole[:, planes])


def test_features_at_voxels_are_those_of_the_volume(rng):
    volume = rng.normal(size=(24, 20, 19)).astype(np.float32)
    where = rng.random(volume.shape) < 0.01
    where[5:9] = False
    whole = features(volume, (1.0, 2.0), (1.0, 1.0, 1.0))
    np.testing.assert_array_equal(features_at(volume, where, (1.0, 2.0), (1.0, 1.0, 1.0)), whole[:, where].T)
    assert features_at(volume, np.zeros_like(where), (1.0,), (1.0, 1.0, 1.0)).shape == (0, 6)


def layers_for(rng, inputs, members=1):
    shapes = ((members, 8, inputs), (members, 5, 8), (members, 1, 5))
    return [
        ((rng.normal(size=s) / s[2] ** 0.5).astype(np.float32), rng.normal(size=s[:2]).astype(np.float32))
        for s in shapes
    ]


@pytest.mark.parametrize(("threads", "members"), [(1, 1), (3, 2)])
def test_perceptrons_are_those_on_stored_features(rng, threads, members):
    volume = rng.normal(size=(12, 70, 21)).astype(np.float32)
    layers = layers_for(rng, 16, members)
    values = features(volume, (1.0, 2.0, 4.0), (1.0, 1.0, 1.0)).reshape(16, -1).astype(np.float64)
    for weights, bias in layers[:2]:
        values = np.maximum(weights @ values + bias[..., None], 0)
    expected = 1 / (1 + np.exp(-(layers[2][0] @ values + layers[2][1][..., None])))
    out = np.empty_like(volume)
    assert perceptron(volume, (1.0, 2.0, 4.0), (1.0, 1.0, 1.0), layers, out, threads) is out
    np.testing.assert_allclose(out.ravel(), expected[:, 0].mean(0), atol=2e-6)
    once = perceptron(volume, (1.0, 2.0, 4.0), (1.0, 1.0, 1.0), layers, threads=1)
    np.testing.assert_array_equal(out, once)


def test_a_constant_image_has_no_slopes_and_nan_stays_nan():
    volume = np.full((8, 9, 10), 7, np.float32)
    found = features(volume, (1.0,), (1.0, 1.0, 1.0))
    np.testing.assert_allclose(found[:2], 7, rtol=1e-6)
    np.testing.assert_allclose(found[2:], 0, atol=1e-6)
    volume[4, 4, 4] = np.nan
    assert np.isnan(features(volume, (1.0,), (1.0, 1.0, 1.0))[1:, 4, 4, 4]).all()


def test_what_features_cannot_be_of_is_refused_in_one_line(rng):
    volume = np.zeros((4, 5, 6), np.float32)
    one = (1.0, 1.0, 1.0)
    with pytest.raises(InputError, match="contiguous float32"):
        features(volume.astype(np.float64), (1.0,), one)
    with pytest.raises(InputError, match="contiguous float32"):
        features(volume[0], (1.0,), one)
    with pytest.raises(InputError, match="scales are positive lengths"):
        features(volume, (1.0, -1.0), one)
    with pytest.raises(InputError, match="three positive lengths"):
        features(volume, (1.0,), (1.0, 0.0, 1.0))
    with pytest.raises(InputError, match=r"scale 600 µm is 600 voxels of 1 µm; at most 200 expected"):
        features(volume, (600.0,), one)
    with pytest.raises(InputError, match="planes are a range of 0 to 4"):
        features(volume, (1.0,), one, slice(2, 2))
    with pytest.raises(InputError, match="marked in bool"):
        features_at(volume, volume, (1.0,), one)
    with pytest.raises(InputError, match=r"perceptrons on 6 features .* found \(1, 8, 16\)"):
        perceptron(volume, (1.0,), one, layers_for(rng, 16))


def test_six_scales_make_31_features():
    assert feature_count(6) == 31
    assert default_scales((9.0, 4.5, 4.5)) == tuple(4.5 * scale for scale in (0.7, 1.0, 1.6, 2.5, 4.0, 6.0))
