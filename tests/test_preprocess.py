"""Image and mask normalisation."""

import numpy as np
import pytest
import torch

from micronet.core.errors import InputError
from micronet.networks.normalize import normalize_image, normalize_mask


def test_image_is_centred_and_scaled_by_the_unbiased_deviation():
    image = np.zeros((1, 1, 4))
    image[0, 0] = [0, 0, 0, 4]  # mean 1, squares 1+1+1+9 = 12, over 3: SD 2

    assert normalize_image(image).tolist() == [[[-0.5, -0.5, -0.5, 1.5]]]


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.uint16, np.int64, np.float16, np.float32, np.float64])
def test_every_real_type_gives_what_torch_computes_in_float64(rng, dtype):
    image = (100 * rng.random((5, 6, 7))).astype(dtype) if dtype is not bool else rng.random((5, 6, 7)) > 0.7
    exact = torch.from_numpy(image.astype(np.float64))
    exact = (exact - exact.mean()) / exact.std()

    result = normalize_image(image)

    assert result.dtype == np.float32
    assert np.abs(result - exact.numpy()).max() < 1e-6


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7, "constant: every voxel is 7"),
        (np.nan, "24 voxels that are not finite"),
        (np.inf, "24 voxels that are not"),
    ],
)
def test_constant_and_not_finite_images_are_refused(value, message):
    with pytest.raises(InputError, match=message):
        normalize_image(np.full((2, 3, 4), value))


def test_one_nan_is_counted():
    image = np.arange(24.0).reshape(2, 3, 4)
    image[1, 1, 1] = np.nan
    with pytest.raises(InputError, match=r"holds 1 voxels that are not finite \(NaN or infinity\)"):
        normalize_image(image)


def test_values_whose_squares_overflow_are_refused():
    with pytest.raises(InputError, match="values too large to normalise"):
        normalize_image(np.array([[[1e300, -1e300]]]))


@pytest.mark.parametrize("image", [np.zeros((3, 3)), np.zeros((2, 2, 2), complex), np.zeros((2, 2, 2), "U1")])
def test_other_shapes_and_types_are_refused(image):
    with pytest.raises(InputError, match=r"an image is a \(Z, Y, X\) array of real numbers, found shape"):
        normalize_image(image)


def test_an_image_without_voxels_is_refused():
    with pytest.raises(InputError, match=r"of shape \(0, 2, 2\) holds no voxel"):
        normalize_image(np.zeros((0, 2, 2)))


def test_mask_is_scaled_first_and_shifted_second_as_published():
    result = normalize_mask(np.array([False, True]))

    assert result.dtype == np.float32
    assert result == pytest.approx([-0.05, 4.538314677], abs=1e-6)
