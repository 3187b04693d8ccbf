"""MICRA-Net: which classes an image holds, and of what layers that is computed."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from micronet import load_model
from micronet.core.errors import FileError, InputError
from micronet.networks.class_names import class_names, class_names_tensor
from micronet.networks.micranet import MicraNet, micranet_parameters
from micronet.networks.registry import dimensions_of, model_for_state, network_named, network_of
from micronet.networks.weights import save_state

pytestmark = pytest.mark.usefixtures("one_thread")


def fresh(dimensions=2, classes=("ring", "Gefäß"), start_channels=4):
    torch.manual_seed(3)
    return MicraNet(dimensions, classes, start_channels).eval()


def images(*shape, count=2):
    return torch.randn(count, 1, *shape, generator=torch.Generator().manual_seed(5))


def test_the_usual_network_has_32_to_256_channels_and_the_parameters_counted_by_hand():
    model = MicraNet(2, ("a", "b", "c"))
    widths = [module.weight.shape for module in model.modules() if isinstance(module, nn.Conv2d)]
    channels = [1, 32, 32, 64, 64, 128, 128, 256, 256]
    assert widths == [(after, before, 3, 3) for before, after in pairwise(channels)]
    # 9 x (32 + 1024 + 2048 + 4096 + 8192 + 16384 + 32768 + 65536), two norms' 2 x channels, 257 x 3
    by_hand = 9 * 130_080 + 2 * 2 * (32 + 64 + 128 + 256) + 771
    assert model.parameter_count == micranet_parameters(2, 32, 3) == by_hand


@pytest.mark.parametrize("dimensions", [2, 3])
def test_parameters_are_known_before_a_network_is_built(dimensions):
    model = fresh(dimensions)
    assert model.parameter_count == micranet_parameters(dimensions, 4, 2)


@pytest.mark.parametrize(("dimensions", "shape"), [(2, (1, 20, 33)), (3, (9, 20, 33))])
def test_the_score_is_what_convolutions_pooling_and_the_last_layer_make_of_the_image(dimensions, shape):
    model = fresh(dimensions)
    for module in model.modules():  # a normalisation that does something
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.fill_(0.1)
            module.running_var.fill_(0.5)
    x = images(*shape)
    features = model.features(x)
    values = x[:, :, 0] if dimensions == 2 else x
    convolve = nn.functional.conv2d if dimensions == 2 else nn.functional.conv3d
    pool = nn.functional.max_pool2d if dimensions == 2 else nn.functional.max_pool3d
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Conv3d)]
    for layer, convolution in enumerate(convolutions):
        if layer in (2, 4, 6):
            values = pool(values, 2, ceil_mode=True)
        values = (convolve(values, convolution.weight, padding=1) - 0.1) / (0.5 + 1e-5) ** 0.5
        values = values.clamp_min(0)
        torch.testing.assert_close(features[layer], values)
    assert len(features) == len(model.layers) == 8
    strongest = values.flatten(2).max(2).values
    logits = strongest @ model.linear.weight.T + model.linear.bias
    torch.testing.assert_close(model.scores(x), logits)
    torch.testing.assert_close(model(x), torch.sigmoid(logits))


@pytest.mark.parametrize(("dimensions", "shape"), [(2, (1, 20, 33)), (3, (9, 20, 33))])
def test_blocks_share_the_layers_and_the_image_has_the_strongest_of_them(dimensions, shape):
    model = fresh(dimensions)
    x = images(*shape)
    features = model.features(x)[-1]
    for block in (8, 16):
        found = model.scores(x, block)
        planes = 1 if dimensions == 2 else -(-shape[0] // block)
        assert found.shape == (2, 2, planes, -(-20 // block), -(-33 // block))
    corner = features[..., :2, :2] if dimensions == 2 else features[..., :2, :2, :2]  # 16 voxels of an edge
    torch.testing.assert_close(model.scores(x, 16)[:, :, 0, 0, 0], model.scores_of(corner))
    whole = model.scores(x, 1000)  # one block, larger than the image
    torch.testing.assert_close(whole.reshape(2, 2), model.scores(x))


def test_a_block_that_is_no_multiple_of_the_stride_is_refused():
    with pytest.raises(InputError, match="must be a multiple of 8 voxels, found 12"):
        fresh().scores(images(1, 24, 24), 12)


@pytest.mark.parametrize(("dimensions", "shape"), [(2, (1, 1, 3)), (3, (1, 1, 1)), (3, (2, 50, 3))])
def test_images_of_any_size_are_looked_at(dimensions, shape):
    assert fresh(dimensions)(images(*shape)).shape == (2, 2)


def test_gradients_of_a_class_reach_every_layer():
    model = fresh()
    features = model.features(images(1, 16, 16))
    gradients = torch.autograd.grad(model.scores_of(features[-1])[:, 1].sum(), features)
    assert all(gradient.shape == one.shape for gradient, one in zip(gradients, features, strict=True))
    assert all(bool(gradient.any()) for gradient in gradients)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_file_says_what_it_is_of_and_names_the_classes(tmp_path, dimensions):
    model = fresh(dimensions)
    save_state(tmp_path / "micranet_1.pt", model.state_dict())
    read = load_model(tmp_path / "micranet_1.pt")
    assert read.classes == ("ring", "Gefäß")
    assert network_of(read) is network_named("micranet")
    assert dimensions_of(read) == dimensions
    x = images(8, 8, 8) if dimensions == 3 else images(1, 8, 8)
    assert torch.equal(read(x), model(x))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("classes", torch.tensor([-1.0]), "'image_config.classes' is no text"),
        ("classes", torch.tensor([0.5]), "'image_config.classes' is no text"),
        ("classes", torch.tensor([255.0]), "'image_config.classes' is no text"),
        ("classes", torch.zeros(1), "name of a class is of characters"),
        ("classes", torch.zeros(0), "'image_config.classes' is no text"),
        ("classes", torch.full((100_000,), 65.0), "'image_config.classes' is no text"),
        ("classes", torch.tensor(list(b"a\na"), dtype=torch.float32), "two classes have the same name: 'a' and 'a'"),
        ("classes", torch.tensor(list(b"a"), dtype=torch.float32), "does not fit 1 classes"),
        ("start_channels", torch.tensor(5.0), "does not fit 2 classes and 5 channels"),
        ("start_channels", torch.tensor(float("nan")), "'image_config.start_channels' is no such number"),
        ("start_channels", torch.tensor(1e9), "'image_config.start_channels' is no such number"),
        ("dimensions", torch.tensor(4.0), "dimensions must be 2 or 3, found 4"),
        ("dimensions", torch.tensor(3.0), "not a MICRA-Net"),
    ],
)
def test_a_file_that_states_another_network_is_refused_in_one_line(tmp_path, key, value, message):
    state = dict(fresh().state_dict())
    state[f"image_config.{key}"] = value
    save_state(tmp_path / "a.pt", state)
    with pytest.raises(FileError, match=message) as caught:
        load_model(tmp_path / "a.pt")
    assert "\n" not in str(caught.value)


def test_a_file_that_claims_to_be_huge_is_refused_before_memory_is_taken():
    state = {
        "image_config.dimensions": torch.tensor(3.0),
        "image_config.start_channels": torch.tensor(512.0),
        "image_config.classes": class_names_tensor(["a"]),
        "linear.weight": torch.zeros(1, 4096),
    }
    with pytest.raises(InputError, match="at most 100,000,000 are built"):
        model_for_state(state)


@pytest.mark.parametrize("names", [[], [""], [" a"], ["a\nb"], ["a", "a"], ["a\u0308", "\u00e4"], ["x" * 41]])
def test_names_that_cannot_be_told_apart_or_shown_are_refused(names):
    with pytest.raises(InputError, match="class"):
        class_names_tensor(names)


def test_half_of_the_strongest_values_are_dropped_in_training_and_none_in_use():
    model, x = fresh(), images(1, 16, 16)
    assert torch.equal(model.scores(x), model.scores(x))
    dropped = []
    model.linear.register_forward_pre_hook(lambda _, given: dropped.append((given[0] == 0).float().mean().item()))
    model.train()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.bias.data.fill_(5.0)  # nothing is 0 by itself
    one, other = model.scores(x), model.scores(x)
    assert not torch.equal(one, other)
    assert np.mean(dropped) == pytest.approx(0.5, abs=0.2)


def test_names_come_back_as_they_were():
    assert class_names(class_names_tensor(["ä 1", "b"]), "classes") == ("ä 1", "b")


def test_a_2d_network_takes_one_slice_at_a_time():
    with pytest.raises(InputError, match="takes slices, found 3 of them"):
        fresh()(images(3, 8, 8))
