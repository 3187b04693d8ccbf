"""Pixel trees: what a state dict may hold, what a slice teaches them."""

import dataclasses

import numpy as np
import pytest
import torch

from micronet.core.errors import InputError
from micronet.networks.evening import evened
from micronet.networks.kernels.scale_space import default_scales, features_at
from micronet.networks.pixel_trees import PixelTrees, pixel_trees_for_state, train_pixel_trees

ONE = (1.0, 1.0, 1.0)


@pytest.fixture
def trees(rng) -> PixelTrees:
    found = rng.normal(size=(300, 11)).astype(np.float32)
    return train_pixel_trees(found, found[:, 3] + found[:, 5] > 0.1, (0.7, 2.0), trees=6)


def test_a_state_dict_is_all_there_is(rng, trees, tmp_path):
    torch.save(trees.state_dict(), tmp_path / "trees.pt")
    state = torch.load(tmp_path / "trees.pt", weights_only=True)
    assert all(tensor.dtype == torch.float32 for tensor in state.values())
    image = rng.normal(size=(5, 8, 9)).astype(np.float32)
    np.testing.assert_array_equal(pixel_trees_for_state(state).predict(image, ONE), trees.predict(image, ONE))


@pytest.mark.parametrize(
    ("key", "tensor", "message"),
    [
        ("scales_um", None, "not pixel trees: scales_um, trees.feature"),
        ("surprise", torch.zeros(3), "not pixel trees: scales_um, trees.feature"),
        ("trees.feature", torch.zeros(6), "not pixel trees: scales_um, trees.feature"),
        ("trees.feature", torch.zeros(20_000, 5), "20000 of depth 5; at most 32, 10000 and 8 expected"),
        ("trees.feature", torch.full((6, 5), 17.0), "asks for features that are not among the 17"),
        ("trees.feature", torch.full((6, 5), 0.5), "asks for features that are not among the 17"),
        ("trees.value", torch.zeros(6, 31), r"'trees.value' is \(6, 31\), \(6, 32\) expected"),
        ("trees.start", torch.tensor([torch.inf]), "not finite, first in 'trees.start'"),
        ("around_um", torch.tensor([-1.0]), "'around_um' is -1; 0 to 1e\\+06 expected"),
        ("scales_um", torch.tensor([1.0, 0.0]), "no pixel trees have, first in 'scales_um'"),
    ],
)
def test_a_state_dict_that_is_none_is_refused_by_name(trees, key, tensor, message):
    state = dict(trees.state_dict())
    if tensor is None:
        del state[key]
    else:
        state[key] = tensor
    with pytest.raises(InputError, match=message):
        pixel_trees_for_state(state)


def test_one_annotated_slice_teaches_the_rest_of_the_volume(rng):
    z, y, x = np.indices((24, 40, 40))
    mask = (y - 20 - 6 * np.sin(z / 6)) ** 2 + (x - 20) ** 2 < 36
    image = (mask + rng.normal(0, 0.5, mask.shape)).astype(np.float32)
    where = np.zeros(mask.shape, bool)
    where[12] = True
    scales = default_scales(ONE)
    trees = train_pixel_trees(features_at(image, where, scales, ONE), mask[where], scales, trees=60)
    predicted = trees.predict(image, ONE) > 0.5
    both = np.count_nonzero((predicted & mask)[~where])
    dice = 2 * both / (np.count_nonzero(predicted[~where]) + np.count_nonzero(mask[~where]))
    assert dice > 0.9  # a threshold on the noisy image gives 0.5


def test_trees_of_an_evened_image_see_the_image_evened(rng, trees):
    image = rng.random(size=(5, 20, 19)).astype(np.float32)
    even = dataclasses.replace(trees, around_um=4.0)
    found = pixel_trees_for_state(even.state_dict()).predict(image, (2.0, 1.0, 1.0))
    np.testing.assert_array_equal(found, trees.predict(evened(image, (2.0, 1.0, 1.0), 4.0), (2.0, 1.0, 1.0)))
    assert (found != trees.predict(image, (2.0, 1.0, 1.0))).any()
