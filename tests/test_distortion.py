"""Distorted masks: warps by hand, the published formula, and what the default loses, gains and blanks."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from micronet import distort, size_map
from micronet.core.errors import InputError
from micronet.networks.kernels import warp
from micronet.networks.kernels.edits import Edits
from micronet.training.distortion import noise
from micronet.training.distortion import reference as distortion_numpy
from micronet.training.distortion.distort import EditSettings, sample_distortion

ONLY_WARP = EditSettings(blank=0, lose=0, gain=0)


def published_distortion(mask, sizes, ratio, bandwidth, random):
    """Distort literally as published: whole spectra, whole inverse FFTs."""
    places = []
    for axis, n in enumerate(mask.shape):
        spectrum = random.normal(0, 0.34, mask.shape)
        for other, m in enumerate(mask.shape):
            t = np.linspace(-1 / bandwidth, 1 / bandwidth, m)
            spectrum *= np.exp(-(t**2) / 2).reshape([-1 if other == a else 1 for a in range(3)])
        field = np.fft.ifftn(np.fft.fftshift(spectrum)).real
        field *= 0.34 * ratio / field.std()
        places.append(field * sizes + np.arange(n).reshape([-1 if axis == a else 1 for a in range(3)]))
    return ndimage.map_coordinates(mask.astype(np.float32), np.stack(places), order=1, mode="nearest")


def tubes(shape, rng):
    """Return a mask of a few thick curved structures."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape), 4, mode="wrap")
    return np.abs(field) < np.quantile(np.abs(field), 0.12)


def fields_on_grid(coefficients, tables):
    return np.einsum("fabc,za,yb,xc->fzyx", coefficients, *tables, optimize=True)


def constant_waves(shape, displacement):
    """Return coefficients and tables of a displacement that is the same everywhere."""
    return np.reshape(displacement, (3, 1, 1, 1)).astype(float), tuple(np.ones((n, 1)) for n in shape)


# warping


def test_zero_field_changes_nothing(rng):
    mask = (rng.random((9, 10, 35)) < 0.4).astype(np.uint8)
    waves = constant_waves(mask.shape, (0, 0, 0))
    out = warp.distort_mask(mask, np.full(mask.shape, 7, np.int32), *waves, None, 2)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, mask)


def test_one_voxel_moved_by_a_quarter():
    mask = np.zeros((5, 5, 5), np.uint8)
    mask[2, 2, 2] = 1
    waves = constant_waves(mask.shape, (0, 0.125, 0))
    out = warp.distort_mask(mask, np.full(mask.shape, 2, np.int32), *waves, None, 1)  # 2 * 0.125 of a voxel
    assert out[2, 2, 2] == 0.75
    assert out[2, 1, 2] == 0.25  # sees y = 1.25
    assert out.sum() == 1


def test_edges_continue_and_far_points_stay_in_the_volume():
    mask = np.zeros((4, 3, 6), np.uint8)
    mask[:, :, 5] = 1
    for step, expected in ((100.0, 1), (-100.0, 0), (1e30, 1)):
        waves = constant_waves(mask.shape, (step, -step, step))
        out = warp.distort_mask(mask, np.ones(mask.shape, np.int32), *waves, None, 1)
        assert (out == expected).all()


def test_voxels_of_size_zero_stay(rng):
    mask = (rng.random((6, 7, 40)) < 0.5).astype(np.uint8)
    sizes = np.zeros(mask.shape, np.int32)
    sizes[:, :, 17:19] = 3
    out = warp.distort_mask(mask, sizes, *constant_waves(mask.shape, (0.5, 0.5, 0.5)), None, 1)
    np.testing.assert_array_equal(out[:, :, :17], mask[:, :, :17])
    np.testing.assert_array_equal(out[:, :, 19:], mask[:, :, 19:])
    assert (out != mask).any()


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 1, 33), (17, 18, 19), (12, 40, 32), (6, 7, 65)])
def test_kernel_equals_numpy(shape, rng):
    mask = tubes(shape, rng).astype(np.uint8)
    sizes = rng.integers(-1, 16, shape, dtype=np.int32) * (rng.random(shape) < 0.6)
    waves, tables = noise.stationary_fields(shape, 0.08, 6, rng)
    edits = Edits(lose_above=0.3, lost=0.8, gain_above=-0.2, gained=0.7, tube=0.8, edge=0.2)
    for what, used in ((None, waves[:3]), (edits, waves)):
        ours = warp.distort_mask(mask, sizes.astype(np.int32), used, tables, what, 3)
        plain = distortion_numpy.distort_mask(mask, sizes, used, tables, what)
        np.testing.assert_allclose(ours, plain, atol=3e-5)


# published


def test_published_equals_the_golden_one(shared):
    golden = np.load(shared / "golden" / "train_ur_net.npz", allow_pickle=False)
    random = np.random.RandomState(int(golden["numpy_seed"]))
    out = distort(
        golden["annotation"],
        golden["size_map"],
        float(golden["ratio"]),
        float(golden["bandwidth"]),
        random,
        "published",
    )
    np.testing.assert_allclose(out, golden["distorted_mask"], atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "ratio", "bandwidth"),
    [
        ((32, 33, 34), 1.2, 0.03),
        ((45, 20, 64), 1.0, 0.04),
        ((21, 22, 23), 1.4, 0.1),
        ((10, 11, 12), 0.5, 0.5),
        ((7, 1, 2), 1.0, 3.0),
    ],
)
def test_published_equals_the_whole_fft(shape, ratio, bandwidth, rng):
    mask = tubes(shape, rng)
    sizes = size_map(mask)
    expected = published_distortion(mask, sizes, ratio, bandwidth, np.random.RandomState(5))
    ours = np.random.RandomState(5)
    out = distort(mask, sizes, ratio, bandwidth, ours, "published")
    np.testing.assert_allclose(out, expected, atol=1e-5)
    # as many numbers were drawn, so the next distortion is the published one too
    theirs = np.random.RandomState(5)
    theirs.normal(size=3 * mask.size)
    assert ours.random_sample() == theirs.random_sample()


@pytest.mark.parametrize("source", [np.random.RandomState, np.random.default_rng])
def test_published_field_is_point_symmetric_and_has_its_deviation(source):
    shape = (30, 31, 32)
    for field in fields_on_grid(*noise.published_fields(shape, 0.06, source(3))):
        assert field.std() == pytest.approx(1, abs=1e-9)
        mirrored = field[::-1, ::-1, ::-1]
        mirrored = np.roll(mirrored, 1, axis=(0, 1, 2))
        np.testing.assert_allclose(field, mirrored, atol=1e-9)


# default


def default_fields(shape, bandwidth, number, at):
    """Return `number` fields of a volume at the index `at` of every axis."""
    coefficients, tables = noise.stationary_fields(shape, bandwidth, number, np.random.default_rng(4))
    return fields_on_grid(coefficients, [table[at] for table in tables])


def test_default_field_has_expected_square_one_at_every_voxel(rng):
    coefficients, tables = noise.stationary_fields((24, 20, 1), 0.06, 2000, rng)
    assert coefficients.std() == pytest.approx(1, abs=0.01)
    for table in tables:  # the waves' squares add up, coefficients being independent
        np.testing.assert_allclose((table**2).sum(axis=1), 1)


def test_default_field_correlates_as_stated():
    length = noise.correlation_length(0.06)
    assert length == pytest.approx(7.5026, abs=1e-3)
    distances = np.array([0, 4, 8, 16])
    fields = default_fields((40, 41, 42), 0.06, 1500, distances)
    for axis in (1, 2, 3):
        found = (np.take(fields, [0], axis) * fields).mean(axis=tuple({0, 1, 2, 3} - {axis}))
        np.testing.assert_allclose(found, np.exp(-(distances**2) / (2 * length**2)), atol=0.08)


def test_default_field_is_not_symmetric_nor_periodic():
    fields = default_fields((40, 41, 42), 0.06, 1500, [0, 3, -4, -3, -1])
    spread = 1 / np.sqrt(1500)
    assert abs(np.mean(fields[:, 1, 1, 1] * fields[:, 2, 2, 2])) < 4 * spread  # mirrored at the centre
    assert abs(np.mean(fields[:, 1, 1, 1] * fields[:, 3, 3, 3])) < 4 * spread  # as published: f(-r) = f(r)
    for axis in (1, 2, 3):
        first, last = np.take(fields, 0, axis), np.take(fields, 4, axis)
        assert abs(np.mean(first * last)) < 4 * spread  # opposite faces


@pytest.mark.parametrize("variant", ["default", "published"])
def test_same_seed_gives_the_same_mask_with_any_number_of_threads(variant, rng):
    mask = tubes((33, 34, 37), rng)
    sizes = size_map(mask)
    outs = []
    for threads in (1, 2, 3):
        for seed in range(4):
            random = np.random.default_rng(seed)
            outs.append(distort(mask, sizes, 1.2, 0.03, random, variant, threads=threads))
    for seed in range(4):
        np.testing.assert_array_equal(outs[seed], outs[seed + 4])
        np.testing.assert_array_equal(outs[seed], outs[seed + 8])
    assert (outs[0] != outs[1]).any()


def test_default_takes_a_random_state_too(rng):
    mask = tubes((20, 20, 20), rng)
    once, again = (distort(mask, size_map(mask), rng=np.random.RandomState(2)) for _ in range(2))
    np.testing.assert_array_equal(once, again)


def test_default_stays_between_zero_and_one(rng):
    mask = tubes((24, 25, 26), rng)
    sizes = size_map(mask)
    for seed in range(60):
        ratio, bandwidth = sample_distortion(rng)
        out = distort(mask, sizes, ratio, bandwidth, np.random.default_rng(seed))
        assert out.dtype == np.float32
        assert out.shape == mask.shape
        assert out.min() >= 0
        assert out.max() <= 1


def test_blank_loss_and_gain_come_as_often_as_asked(rng):
    mask = tubes((48, 48, 48), rng)
    sizes = np.zeros(mask.shape, np.int32)  # the walls stay, so every change is an edit
    edits = EditSettings(
        blank=0.2,
        lose=0.5,
        gain=0.25,
        lost_fraction=(0.4, 0.6),
        gained_fraction=(0.4, 0.6),
        tube_radius_vox=(4, 5),
    )
    blank = lost = gained = 0
    runs = 300
    for seed in range(runs):
        out = distort(mask, sizes, 1.2, 0.1, np.random.default_rng(seed), edits=edits)
        if not out.any():
            blank += 1
        else:
            lost += bool((out[mask] < 0.5).any())
            gained += bool((out[~mask] > 0).any())
    # three standard deviations of a count
    assert abs(blank - 0.2 * runs) < 3 * np.sqrt(runs * 0.16)
    assert abs(lost - 0.5 * (runs - blank)) < 3 * np.sqrt(runs * 0.8 * 0.25)
    assert abs(gained - 0.25 * (runs - blank)) < 3 * np.sqrt(runs * 0.8 * 0.19)


def test_lost_part_is_the_part_asked_for(rng):
    mask = np.ones((64, 64, 64), bool)
    mask[0] = False
    sizes = np.zeros(mask.shape, np.int32)
    edits = EditSettings(blank=0, lose=1, gain=0, lost_fraction=(0.3, 0.3), lost_strength=(1, 1))
    lost = [
        (distort(mask, sizes, 1.2, 0.1, np.random.default_rng(seed), edits=edits)[1:] < 0.5).mean()
        for seed in range(40)
    ]
    assert np.mean(lost) == pytest.approx(0.3, abs=0.04)


def test_gained_tubes_are_as_thick_as_asked():
    mask = np.zeros((80, 80, 80), bool)
    sizes = np.zeros(mask.shape, np.int32)
    edits = EditSettings(
        blank=0, lose=0, gain=1, gained_fraction=(1, 1), gained_strength=(0.8, 0.8), tube_radius_vox=(4, 4)
    )
    length = noise.correlation_length(0.05)
    parts = []
    for seed in range(20):
        out = distort(mask, sizes, 1.2, 0.05, np.random.default_rng(seed), edits=edits)
        assert out.max() == pytest.approx(0.8)
        parts.append((out > 0.4).mean())
    # length of the curves on which two fields vanish, 1 / (pi length²) a voxel, times the area of a tube
    assert np.mean(parts) == pytest.approx(np.pi * 4**2 / (np.pi * length**2), rel=0.15)


def test_sampled_parameters_lie_in_the_published_ranges():
    rng = np.random.default_rng(1)
    pairs = np.array([sample_distortion(rng) for _ in range(500)])
    assert pairs[:, 0].min() == pytest.approx(1.0, abs=0.01)
    assert pairs[:, 0].max() == pytest.approx(1.4, abs=0.01)
    assert pairs[:, 1].min() == pytest.approx(0.02, abs=0.001)
    assert pairs[:, 1].max() == pytest.approx(0.04, abs=0.001)


def test_without_numba_the_numbers_are_the_same(tmp_path, rng):
    mask = tubes((20, 21, 22), rng)
    np.save(tmp_path / "mask.npy", mask)
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "import numpy as np\n"
        "from micronet import distort, size_map\n"
        "mask = np.load('mask.npy'); sizes = size_map(mask)\n"
        "np.save('sizes.npy', sizes)\n"
        "np.save('out.npy', distort(mask, sizes, rng=np.random.default_rng(8)))\n"
        "assert 'torch' not in sys.modules\n"
    )
    environment = {"PYTHONPATH": ":".join([str(p) for p in sys.path if p])}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    sizes = size_map(mask)
    np.testing.assert_array_equal(np.load(tmp_path / "sizes.npy"), sizes)
    expected = distort(mask, sizes, rng=np.random.default_rng(8))
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=3e-5)


# bad input


def test_bad_input_is_named(rng):
    mask = np.zeros((4, 5, 6), bool)
    sizes = size_map(mask)
    with pytest.raises(InputError, match=r"size map: shape \(Z, Y, X\) \(4, 5, 5\) differs .* \(4, 5, 6\)"):
        distort(mask, sizes[:, :, :5], rng=rng)
    with pytest.raises(InputError, match="a mask holds 0 and 1 only; this one holds 0, 255"):
        distort(np.where(np.arange(6) > 2, 255, 0).reshape(1, 1, 6), np.zeros((1, 1, 6)), rng=rng)
    for bad in (0, -1, np.nan, np.inf):
        with pytest.raises(InputError, match=r"ratio is .*; expected a positive number"):
            distort(mask, sizes, ratio=bad, rng=rng)
        with pytest.raises(InputError, match=r"bandwidth is .*; expected a positive number"):
            distort(mask, sizes, bandwidth=bad, rng=rng)
    with pytest.raises(InputError, match="unknown distortion variant 'best'; known: default, published"):
        distort(mask, sizes, rng=rng, variant="best")


@pytest.mark.parametrize(
    "wrong",
    [{"blank": 1.5}, {"lose": -0.1}, {"lost_fraction": (0.5, 0.2)}, {"edge_vox": (0.0, 1.0)}, {"gain": np.nan}],
)
def test_bad_settings_are_named(wrong):
    with pytest.raises(InputError, match=rf"{next(iter(wrong))} is .*expected values from 0 to"):
        replace(ONLY_WARP, **wrong)
