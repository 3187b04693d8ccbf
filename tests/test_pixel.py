"""Pixel networks: what they compute, what a state dict may hold, what a slice teaches them."""

import numpy as np
import pytest
import torch

from micronet.core.errors import InputError
from micronet.networks.kernels.scale_space import default_scales, features, features_at
from micronet.networks.pixel import PixelNetwork, pixel_network_for_state
from micronet.training.teach.pixel import train_pixel_network

ONE = (1.0, 1.0, 1.0)


@pytest.fixture
def network() -> PixelNetwork:
    generator = torch.Generator().manual_seed(1)
    made = PixelNetwork((1.0, 2.0), members=2, hidden=8, generator=generator)
    made.feature_mean += torch.randn(11, generator=generator)
    made.feature_sd *= torch.rand(11, generator=generator) + 0.5
    return made


def tube(rng, shape=(24, 40, 40)):
    """Return a noisy image with a bright tube that bends, and its mask."""
    z, y, x = np.indices(shape)
    mask = (y - 20 - 6 * np.sin(z / 6)) ** 2 + (x - 20) ** 2 < 36
    return (mask + rng.normal(0, 0.5, shape)).astype(np.float32), mask


def test_prediction_is_the_mean_of_the_members_on_normalised_features(rng, network):
    image = rng.normal(size=(9, 20, 17)).astype(np.float32)
    stored = torch.from_numpy(features(image, (1.0, 2.0), ONE).reshape(11, -1).T.copy())
    x = (stored - network.feature_mean) / network.feature_sd
    expected = torch.sigmoid(network(x.expand(2, -1, -1))).mean(0).detach().numpy()
    np.testing.assert_allclose(network.predict(image, ONE).ravel(), expected, atol=5e-6)


def test_a_state_dict_is_all_there_is(rng, network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "pixel.pt")
    state = torch.load(tmp_path / "pixel.pt", weights_only=True)
    assert all(tensor.dtype == torch.float32 for tensor in state.values())
    again = pixel_network_for_state(state)
    assert again.scales == (1.0, 2.0)
    image = rng.normal(size=(5, 8, 9)).astype(np.float32)
    np.testing.assert_array_equal(again.predict(image, ONE), network.predict(image, ONE))


@pytest.mark.parametrize(
    ("key", "tensor", "message"),
    [
        ("scales_um", None, "not a pixel network: 'scales_um'"),
        ("layer0.weight", torch.zeros(3), "not a pixel network: 'scales_um'"),
        ("layer2.bias", None, r"'layer2.bias' is missing, \(2, 1\) expected"),
        ("surprise", torch.zeros(3), r"'surprise' is \(3,\), nothing expected"),
        ("layer1.weight", torch.zeros(2, 8, 9), r"'layer1.weight' is \(2, 8, 9\), \(2, 8, 8\) expected"),
        ("layer0.weight", torch.zeros(500, 8, 11), "500 members and 8 hidden units; at most 32, 64 and 1024"),
        ("layer0.bias", torch.full((2, 8), torch.nan), "values that no pixel network has, first in 'layer0.bias'"),
        ("feature_sd", torch.zeros(11), "values that no pixel network has, first in 'feature_sd'"),
        ("scales_um", torch.tensor([1.0, -2.0]), "values that no pixel network has, first in 'scales_um'"),
    ],
)
def test_a_state_dict_that_is_none_is_refused_by_name(network, key, tensor, message):
    state = dict(network.state_dict())
    if tensor is None:
        del state[key]
    else:
        state[key] = tensor
    with pytest.raises(InputError, match=message):
        pixel_network_for_state(state)


def test_one_annotated_slice_teaches_the_rest_of_the_volume(rng):
    image, mask = tube(rng)
    where = np.zeros(mask.shape, bool)
    where[12] = True
    told = []
    found = features_at(image, where, default_scales(ONE), ONE)
    network = train_pixel_network(
        found, mask[where], default_scales(ONE), steps=60, on_step=lambda *step: told.append(step)
    )
    predicted = network.predict(image, ONE) > 0.5
    elsewhere = ~where
    both = np.count_nonzero(predicted & mask & elsewhere)
    dice = 2 * both / (np.count_nonzero(predicted & elsewhere) + np.count_nonzero(mask & elsewhere))
    assert dice > 0.93  # a threshold on the noisy image gives 0.5
    assert [step for step, _ in told] == list(range(1, 61))
    assert told[-1][1] < told[0][1] / 2


def test_the_same_seed_gives_the_same_weights_and_another_one_others(rng):
    found, lumen = rng.normal(size=(300, 31)).astype(np.float32), rng.random(300) < 0.3
    state = torch.get_rng_state()
    networks = [
        train_pixel_network(found, lumen, default_scales(ONE), steps=5, seed=seed).state_dict() for seed in (1, 1, 2)
    ]
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's random numbers are drawn
    assert all(torch.equal(networks[0][key], networks[1][key]) for key in networks[0])
    assert not torch.equal(networks[0]["layer0.weight"], networks[2]["layer0.weight"])


def test_one_class_alone_is_refused(rng):
    found = rng.normal(size=(50, 31)).astype(np.float32)
    for lumen, missing in ((True, "background"), (False, "lumen")):
        with pytest.raises(InputError, match=f"no voxel is annotated as {missing}"):
            train_pixel_network(found, np.full(50, lumen), default_scales(ONE))


def test_two_voxels_and_features_without_spread_are_learned_from(rng):
    found = np.zeros((2, 6), np.float32)
    found[1, 0] = 1
    network = train_pixel_network(found, np.array([False, True]), (1.0,), steps=20)
    assert all(torch.isfinite(tensor).all() for tensor in network.state_dict().values())
    with torch.no_grad():
        logits = network(network.normalized(torch.from_numpy(found)).expand(3, -1, -1))
    assert (logits[:, 0] < logits[:, 1]).all()
