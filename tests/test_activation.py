"""Class activation maps agree with Captum's; the precise map has the coarse one's sign."""

import numpy as np
import pytest
import torch

from micronet.core.errors import InputError
from micronet.measure.cutting import OTSU, Cut, cut_at
from micronet.networks.activation import coarse_and_precise, layer_maps, maps_of_image
from micronet.networks.blocknet import BlockNet, activation_of_voxels, block_maxima
from micronet.networks.micranet import MicraNet


def network(dimensions, classes=("ring", "vessel"), channels=4):
    torch.manual_seed(5)
    model = MicraNet(dimensions, classes, channels)
    for module in model.modules():  # as after training: no normalisation is the identity
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize(("dimensions", "shape"), [(2, (1, 37, 45)), (3, (11, 18, 21))])
def test_maps_of_all_layers_are_those_of_captum(dimensions, shape):
    attr = pytest.importorskip("captum.attr")
    model = network(dimensions)
    image = torch.randn(1, 1, *shape)
    logits, maps = layer_maps(model, image)
    torch.testing.assert_close(logits, model.scores(image)[0].detach())
    signs = set()
    for of_class, layers in enumerate(maps):
        for layer, found in zip(model.layers, layers, strict=True):
            wanted = attr.LayerGradCam(model.scores, layer).attribute(image, target=of_class).detach()
            assert found.shape == wanted.shape
            scale = max(float(wanted.abs().max()), 1e-12)
            assert float((found - wanted).abs().max()) <= 1e-5 * scale
            signs |= {float(sign) for sign in found.sign().unique()}
    assert {-1.0, 1.0} <= signs


def test_the_map_of_blocks_is_that_of_captum():
    attr = pytest.importorskip("captum.attr")
    torch.manual_seed(1)
    model = BlockNet().eval()
    image = torch.randn(1, 1, 8, 8, 8)
    wanted = attr.LayerGradCam(lambda x: block_maxima(model(x), (8, 8, 8)).flatten(1), model.layers).attribute(
        image, target=0
    )
    # Captum takes the mean of a gradient that is the weight at one voxel of 512 and 0 elsewhere, and knows no bias.
    found = wanted.detach() * 8**3 + model.linear.bias.detach().reshape(1, 1, 1, 1, 1)
    torch.testing.assert_close(found, model(image).detach(), rtol=1e-5, atol=1e-5)


def test_a_volume_is_looked_at_in_windows_as_if_it_were_whole():
    torch.manual_seed(2)
    model = BlockNet().eval()
    image = np.random.default_rng(0).normal(size=(37, 9, 70)).astype(np.float32)
    found = activation_of_voxels(model, image)
    padded = torch.from_numpy(np.pad(image, 3, mode="symmetric"))
    with torch.no_grad():
        whole = model(padded[None, None])[0, 0, 3:-3, 3:-3, 3:-3].numpy()
    np.testing.assert_allclose(found, whole, atol=1e-5)


@pytest.mark.parametrize(("dimensions", "shape"), [(2, (1, 33, 50)), (3, (9, 17, 20)), (2, (1, 3, 5))])
def test_maps_have_the_size_of_the_image(dimensions, shape):
    image = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    probability, maps = maps_of_image(network(dimensions), image)
    assert probability.shape == (2,)
    assert maps.shape == (2, 2, *shape)
    assert np.isfinite(maps).all()


def test_an_element_of_a_layer_lies_on_the_voxels_that_it_was_pooled_from():
    """A step between voxels 15 and 16 stays there in the map of a layer that sees one voxel of each 8."""
    from micronet.networks.activation import _as_large

    found = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0]).reshape(1, 1, 1, 5).expand(1, 1, 5, 5)
    row = _as_large(found, (1, 37, 37), 2)[0, 18]
    assert row[15] < 0.5 < row[16]
    assert row[11] == 0
    assert row[20] == 1


def test_the_precise_map_has_the_sign_of_the_coarse_one():
    rng = np.random.default_rng(3)
    shared = rng.normal(size=(1, 20, 20)).astype(np.float32)
    earlier = [shared * scale + 0.01 * rng.normal(size=shared.shape).astype(np.float32) for scale in (1e-3, -5, 40)]
    for sign in (1, -1):
        coarse, precise = coarse_and_precise([*earlier, sign * shared])
        assert np.corrcoef(precise.ravel(), sign * shared.ravel())[0, 1] > 0.999
        assert np.array_equal(coarse, sign * shared)
        assert abs(float(precise.mean())) < 1e-5


def test_the_first_component_is_that_of_a_singular_value_decomposition():
    rng = np.random.default_rng(4)
    maps = [rng.normal(size=(3, 8, 8)).astype(np.float32) for _ in range(8)]
    _, precise = coarse_and_precise(maps)
    rows = np.stack([one.ravel() for one in maps[:7]]).astype(np.float64)
    rows = (rows - rows.mean(1, keepdims=True)) / rows.std(1, keepdims=True)
    left = np.linalg.svd(rows, full_matrices=False)[0][:, 0]
    wanted = left @ rows
    assert abs(np.corrcoef(wanted, precise.ravel())[0, 1]) > 1 - 1e-9


@pytest.mark.parametrize("last", [0.0, 1.0])
def test_maps_that_do_not_vary_give_none(last):
    flat = [np.full((1, 4, 4), 2.0, np.float32)] * 7
    coarse, precise = coarse_and_precise([*flat, np.full((1, 4, 4), last, np.float32)])
    assert not precise.any()
    assert (coarse == last).all()


def test_what_was_found_repeats_to_the_bit():
    image = np.random.default_rng(6).normal(size=(1, 40, 40)).astype(np.float32)
    one, two = (maps_of_image(network(2), image) for _ in range(2))
    assert np.array_equal(one[0], two[0])
    assert np.array_equal(one[1], two[1])


def two_heaps():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(0, 1, 5000), rng.normal(6, 1, 900)])


@pytest.mark.parametrize("sign", [1, -1])
def test_thresholds_are_those_of_scikit_image(sign):
    filters = pytest.importorskip("skimage.filters")
    values = sign * two_heaps()
    assert cut_at(values, OTSU) == pytest.approx(filters.threshold_otsu(values), abs=1e-9)
    assert cut_at(values, Cut.of("triangle")) == pytest.approx(filters.threshold_triangle(values), abs=0.1)


def test_a_threshold_by_hand():
    values = np.array([0.0] * 6 + [10.0] * 4)
    assert 0 < cut_at(values, OTSU) < 10
    assert cut_at(np.arange(101.0), Cut.of("percentile:95")) == 95
    assert cut_at(np.full(9, 3.0), OTSU) == 3  # nothing is above


@pytest.mark.parametrize("text", ["mean", "percentile", "percentile:100", "percentile:-1", "percentile:nan", "otsu "])
def test_other_ways_to_a_threshold_are_refused(text):
    with pytest.raises(InputError, match="no way to find a threshold"):
        Cut.of(text)


def test_a_way_to_a_threshold_is_told_as_it_is_typed():
    for text in ("otsu", "triangle", "percentile:97.5"):
        assert str(Cut.of(text)) == text
