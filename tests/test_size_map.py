"""Size maps: by hand, against scipy, against the published ones."""

import nrrd
import numpy as np
import pytest
from scipy import ndimage

from micronet import size_map
from micronet.core.errors import InputError
from micronet.training.distortion import reference as distortion_numpy


def scipy_size_map(mask):
    """Follow the published definition voxel by voxel; axes go on as whole reflections, however short they are."""
    distance = ndimage.distance_transform_cdt(mask, metric="chessboard")
    g = np.arange(-15, 16) ** 2
    ball = g[:, None, None] + g[:, None] + g <= 225
    seen = np.lib.stride_tricks.sliding_window_view(np.pad(distance, 15, mode="symmetric"), ball.shape)
    largest = [seen[voxel][ball].max() for voxel in np.ndindex(mask.shape)]
    return np.minimum(15, np.reshape(largest, mask.shape))


def test_one_voxel_makes_a_ball_of_ones():
    mask = np.zeros((33, 34, 35), bool)
    mask[16, 17, 18] = True
    z, y, x = np.indices(mask.shape)
    ball = (z - 16) ** 2 + (y - 17) ** 2 + (x - 18) ** 2 <= 225
    sizes = size_map(mask)
    assert sizes.dtype == np.int32
    np.testing.assert_array_equal(sizes, ball)


def test_cube_of_five_by_hand():
    mask = np.zeros((9, 9, 60), np.uint8)
    mask[2:7, 2:7, 10:15] = 1  # 3 at its centre x = 12, 2 around that, 1 at its surface
    along_x = size_map(mask)[4, 4]
    np.testing.assert_array_equal(along_x[12:32], [3] * 16 + [2, 1, 0, 0])
    np.testing.assert_array_equal(along_x[:12], 3)


def test_sizes_end_at_fifteen():
    mask = np.zeros((40, 41, 42), bool)
    mask[1:-1, 1:-1, 1:-1] = True
    assert size_map(mask).max() == 15


def test_faces_of_the_volume_are_no_background():
    mask = np.ones((20, 3, 4), bool)
    mask[0] = False
    np.testing.assert_array_equal(size_map(mask)[:, 0, 0], [15] * 20)
    np.testing.assert_array_equal(size_map(mask[:6])[:, 0, 0], [5] * 6)


def test_empty_mask_has_size_zero_and_full_mask_has_none():
    assert not size_map(np.zeros((4, 5, 6), bool)).any()
    full = np.ones((15, 16, 17), bool)
    np.testing.assert_array_equal(size_map(full), scipy_size_map(full))
    assert (size_map(full) == -1).all()


@pytest.mark.parametrize("shape", [(1, 1, 1), (16, 15, 17), (3, 16, 8), (1, 2, 30)])
@pytest.mark.parametrize("part", [0.05, 0.99])
def test_equals_scipy_on_random_masks(shape, part, rng):
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), 1.0, mode="nearest")
    mask = noise <= np.quantile(noise, part)
    expected = scipy_size_map(mask)
    for threads in (1, 2, 5):
        np.testing.assert_array_equal(size_map(mask, threads=threads), expected)
    np.testing.assert_array_equal(distortion_numpy.size_map(mask.astype(np.uint8)), expected)


def test_equals_the_golden_one(shared):
    golden = np.load(shared / "golden" / "train_ur_net.npz", allow_pickle=False)
    np.testing.assert_array_equal(size_map(golden["annotation"]), golden["size_map"])


@pytest.mark.parametrize(("volume", "y_crop"), [("00_T46", 160), ("03_T17", 170), ("11_T14", 175)])
def test_equals_the_published_ones(shared, volume, y_crop):
    folder = shared / "data" / "yolk_sac"
    path = folder / "annotations" / f"annotation_082616_{volume}_iso_full.seg.nrrd"
    layers, _ = nrrd.read(str(path), index_order="C")
    published, _ = nrrd.read(str(folder / "size_map_cache" / f"082616_{volume}.nrrd"), index_order="C")
    mask = layers[:, :y_crop, :, 1]
    np.testing.assert_array_equal(size_map(mask), published)
    if volume == "00_T46":
        np.testing.assert_array_equal(distortion_numpy.size_map(np.ascontiguousarray(mask, dtype=np.uint8)), published)


def test_layout_of_the_mask_does_not_matter(rng):
    mask = rng.random((12, 13, 14)) < 0.7
    expected = size_map(mask)
    np.testing.assert_array_equal(size_map(np.asfortranarray(mask)), expected)
    np.testing.assert_array_equal(size_map(mask.astype(np.float64)), expected)
    np.testing.assert_array_equal(size_map(mask[::-1, :, ::-1]), expected[::-1, :, ::-1])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((4, 5)), r"three axes \(Z, Y, X\).*shape \(4, 5\)"),
        (np.zeros((4, 0, 5)), r"shape \(4, 0, 5\)"),
        (np.array([[[0, 1, 2]]]), "0 and 1 only; this one holds 0, 1, 2"),
        (np.array([[[0, 0.5]]]), r"holds 0, 0\.5"),
        (np.array([[[0, 257]]]), "holds 0, 257"),
        (np.array([[[0, np.nan]]]), "holds 0, nan"),
        (np.arange(20).reshape(1, 4, 5), r"holds 0, 1, 2, 3, 4, 5, \.\."),
    ],
)
def test_bad_masks_are_named(mask, message):
    with pytest.raises(InputError, match=message):
        size_map(mask)
