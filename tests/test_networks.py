"""Larger networks: they are MONAI's own, take any shape, and say with their weights how they are built."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from micronet import load_model, predict
from micronet.core.errors import FileError, InputError
from micronet.networks.library import LIBRARY, Build, Hourglass, UNet, VNet, built_from, parameters_about
from micronet.networks.registry import classes_of, dimensions_of, model_for_state, network_named, network_of
from micronet.networks.weights import save_state

nets = pytest.importorskip("monai.networks.nets")

SMALL = Build(depth=2, start_channels=2)


def fresh(kind, build, seed=3):
    torch.manual_seed(seed)
    return kind(build).eval()


def image(*shape):
    return torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(5))


def bare(build, inputs, outputs):
    """MONAI's U-Net as its documentation builds it."""
    norm = ("group", {"num_groups": math.gcd(8, build.start_channels)}) if build.norm == "group" else build.norm
    return nets.UNet(
        spatial_dims=build.dimensions,
        in_channels=inputs,
        out_channels=outputs,
        channels=[build.start_channels * 2**level for level in range(build.depth + 1)],
        strides=[2] * build.depth,
        kernel_size=build.kernel_size,
        up_kernel_size=build.kernel_size,
        norm=norm,
    ).eval()


@pytest.mark.parametrize(
    "build",
    [
        SMALL,
        Build(depth=3, start_channels=2, kernel_size=5),
        Build(depth=2, start_channels=3, norm="instance"),
        Build(depth=2, start_channels=4, norm="group", out_channels=3),
        Build(depth=2, start_channels=4, dimensions=2),
    ],
)
def test_a_unet_is_monais_to_1e_6(build):
    ours = fresh(UNet, build)
    theirs = bare(build, 1, build.out_channels)
    theirs.load_state_dict(ours.net.state_dict())
    x = image(1, 16, 24) if build.dimensions == 2 else image(16, 8, 24)
    given = x[:, :, 0] if build.dimensions == 2 else x
    with torch.inference_mode():
        found, expected = ours.scores(x)[0], theirs(given).reshape(ours.scores(x)[0].shape)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
        probability = torch.softmax(expected, 1)[:, 1:] if build.out_channels > 1 else torch.sigmoid(expected)
        torch.testing.assert_close(ours(x), probability, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_vnet_is_monais_to_1e_6(dimensions):
    ours = fresh(VNet, Build(dimensions=dimensions))
    theirs = nets.VNet(spatial_dims=dimensions, in_channels=1, out_channels=1).eval()
    theirs.load_state_dict(ours.net.state_dict())
    x = image(1, 16, 32) if dimensions == 2 else image(16, 16, 16)
    with torch.inference_mode():
        expected = theirs(x[:, :, 0])[:, :, None] if dimensions == 2 else theirs(x)
        torch.testing.assert_close(ours.scores(x)[0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("build", [Build(depth=2, num_stacks=3), Build(depth=1, num_stacks=2, dimensions=2)])
def test_an_hourglass_is_monais_unets_in_a_row_body_by_body(build):
    ours = fresh(Hourglass, build)
    x = image(1, 12, 8) if build.dimensions == 2 else image(8, 12, 8)
    convolve = nn.functional.conv2d if build.dimensions == 2 else nn.functional.conv3d
    with torch.inference_mode():
        found = ours.scores(x)
        assert len(found) == build.num_stacks
        fed = x[:, :, 0] if build.dimensions == 2 else x
        for number, score in enumerate(found):
            body = bare(build, build.start_channels if number else 1, build.start_channels)
            body.load_state_dict(ours.bodies[number].state_dict())
            features = body(fed)
            head = ours.heads[number]
            expected = convolve(features, head.weight, head.bias)
            torch.testing.assert_close(score, expected.reshape(score.shape), atol=1e-6, rtol=0)
            if number + 1 < build.num_stacks:
                link = ours.links[number]
                fed = convolve(torch.cat((features, expected), 1), link.weight, link.bias)
    assert all(set(one.weight.shape[2:]) == {1} for one in (*ours.heads, *ours.links))


def test_a_shape_that_does_not_fit_is_padded_to_multiples_and_cut_back():
    ours = fresh(UNet, SMALL)
    x = image(9, 4, 11)
    padded = nn.functional.pad(x, (0, 1, 0, 0, 0, 3), mode="replicate")
    assert padded.shape[2:] == (12, 4, 12)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), torch.sigmoid(ours.net(padded))[:, :, :9, :, :11], atol=1e-6, rtol=0)


@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 4, 4), (3, 1, 5)])
def test_volumes_smaller_than_the_coarsest_voxel_are_looked_at_and_trained_on(norm, shape):
    model = fresh(UNet, Build(depth=2, norm=norm))
    assert model(image(*shape)).shape[2:] == shape
    assert model.train()(image(*shape)).shape[2:] == shape


def test_a_2d_network_looks_at_every_slice_by_itself():
    model = fresh(UNet, Build(dimensions=2, depth=2, out_channels=2))
    x = image(3, 9, 8)
    with torch.inference_mode():
        each = torch.cat([model(x[:, :, z : z + 1]) for z in range(3)], 2)
        torch.testing.assert_close(model(x), each, atol=1e-6, rtol=0)
    assert (dimensions_of(model), dimensions_of(fresh(UNet, SMALL))) == (2, 3)


@pytest.mark.parametrize(
    ("setting", "value", "fewer"),
    [("depth", 3, False), ("start_channels", 4, False), ("kernel_size", 5, False), ("num_stacks", 2, False)],
)
def test_each_size_makes_another_network(setting, value, fewer):
    changed = Build(**{"depth": 2, "start_channels": 2, setting: value})
    assert (Hourglass(changed).parameter_count < Hourglass(SMALL).parameter_count) == fewer
    assert Hourglass(changed).parameter_count != Hourglass(SMALL).parameter_count


@pytest.mark.parametrize(
    ("norm", "kind"), [("batch", nn.BatchNorm3d), ("instance", nn.InstanceNorm3d), ("group", nn.GroupNorm)]
)
def test_each_norm_is_the_layer_of_its_name(norm, kind):
    kinds = (nn.BatchNorm3d, nn.InstanceNorm3d, nn.GroupNorm)
    found = {type(layer) for layer in UNet(Build(depth=2, norm=norm)).modules() if isinstance(layer, kinds)}
    assert found == {kind}


@pytest.mark.parametrize(
    ("kind", "build"),
    [
        (UNet, SMALL),
        (UNet, Build(dimensions=2, depth=3, start_channels=6, kernel_size=5, norm="group", out_channels=4)),
        (UNet, Build(depth=1, classes=("lumen", "Gefäßwand"))),
        (Hourglass, Build(depth=1, num_stacks=3, norm="instance")),
    ],
)
def test_weights_alone_say_how_their_network_is_built(tmp_path, kind, build):
    model = fresh(kind, build)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer += 0.25  # as training leaves it
    save_state(tmp_path / "w.pt", model.state_dict())
    again = load_model(tmp_path / "w.pt")
    assert type(again) is kind
    assert again.settings == model.settings
    assert network_of(again) is network_named(kind.name)
    x = image(5, 6, 7)
    with torch.inference_mode():
        assert torch.equal(again(x), model(x))


def test_a_vnet_says_its_dimensions_and_has_no_sizes():
    stated = {key: tensor for key, tensor in VNet(Build(dimensions=2)).state_dict().items() if key.startswith("config")}
    assert built_from(stated).settings == {"dimensions": 2, "out_channels": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config.network": 9.0}, "'config.network' is no such number"),
        ({"config.depth": 2.5}, "'config.depth' is no such number"),
        ({"config.depth": float("nan")}, "'config.depth' is no such number"),
        ({"config.start_channels": -1.0}, "'config.start_channels' is no such number"),
        ({"config.start_channels": 5000.0}, "start_channels must be a whole number from 1 to 512, found 5000"),
        ({"config.norm": 3.0}, "'config.norm' is no such number"),
        ({"config.depth": 8.0, "config.start_channels": 512.0}, "parameters, at most 100,000,000 are built"),
        ({"config.depth": None}, "'config.depth' is no such number"),
        ({"config.depth": 3.0}, "not a U-Net; against unet: missing: .*; misshaped: "),
    ],
)
def test_settings_in_weights_that_make_no_sense_cost_a_line_and_no_memory(tmp_path, change, message):
    state = fresh(UNet, SMALL).state_dict()
    for key, value in change.items():
        if value is None:
            del state[key]
        else:
            state[key] = torch.tensor(value)
    with pytest.raises(InputError, match=message):
        model_for_state(state)
    save_state(tmp_path / "w.pt", state)
    with pytest.raises(FileError, match=r"w.pt': ") as caught:
        load_model(tmp_path / "w.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", list(LIBRARY.values()))
@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_size_that_is_told_beforehand_is_nearly_the_true_one(kind, dimensions):
    build = Build(dimensions=dimensions, depth=3, start_channels=8, num_stacks=2)
    if kind is VNet and dimensions == 3:
        pytest.skip("built above")
    true = sum(parameter.numel() for parameter in kind(build).parameters())
    assert parameters_about(kind.name, build) == pytest.approx(true, rel=0.03)


def test_a_network_of_several_classes_has_a_channel_each_beside_background_and_says_their_names(tmp_path):
    model = fresh(Hourglass, Build(depth=1, num_stacks=2, classes=("lumen", "wall")))
    assert [head.out_channels for head in model.heads] == [3, 3]
    x = image(4, 5, 6)
    with torch.inference_mode():
        assert model(x).shape == (1, 2, 4, 5, 6)
        torch.testing.assert_close(model(x), torch.softmax(model.scores(x)[-1], 1)[:, 1:])
    assert classes_of(model) == ("lumen", "wall")
    assert model.settings["classes"] == ["lumen", "wall"]
    state = model.state_dict()
    assert bytes(state["config.classes"].to(torch.uint8).tolist()).decode() == "lumen\nwall"
    save_state(tmp_path / "w.pt", state)
    assert classes_of(load_model(tmp_path / "w.pt")) == ("lumen", "wall")


def test_a_network_of_one_class_is_of_the_lumen_and_its_weights_name_none():
    model = fresh(UNet, SMALL)
    assert classes_of(model) == ("lumen",)
    assert "classes" not in model.settings
    assert "config.classes" not in model.state_dict()
    assert classes_of(network_named("u-net").build()) == ("lumen",)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([108.0, 256.0], "'config.classes' is no text"),
        ([108.5], "'config.classes' is no text"),
        ([float("nan")], "'config.classes' is no text"),
        ([255.0, 10.0, 97.0], "'config.classes' is no text"),
        ([], "'config.classes' is no text"),
        ([97.0] * 50_000, "'config.classes' is no text"),
        ([97.0], r"1 classes and background are 2 channels, found 3"),
        ([97.0, 10.0, 97.0], "two classes have the same name: 'a' and 'a'"),
        ([97.0, 10.0, 27.0], "the name of a class is of characters that can be printed"),
        ([97.0] * 41 + [10.0, 98.0], "the name of a class has at most 40 characters"),
        (list(b"background\nwall"), "the name of a class is not 'background'"),
        ([[97.0, 98.0]], "'config.classes' is no text"),
    ],
)
def test_names_in_weights_that_are_none_cost_a_line(names, message):
    state = fresh(UNet, Build(depth=1, start_channels=2, classes=("lumen", "wall"))).state_dict()
    state["config.classes"] = torch.tensor(names, dtype=torch.float32)
    with pytest.raises(InputError, match=message) as caught:
        model_for_state(state)
    assert "\n" not in str(caught.value)


def test_a_network_without_settings_in_its_weights_is_no_network_of_the_library():
    with pytest.raises(InputError, match="the weights do not say how their network is built"):
        built_from({})


def test_a_larger_network_predicts_a_volume_of_any_shape_without_padding_it_to_32():
    model = fresh(UNet, SMALL)
    volume = np.random.default_rng(2).normal(size=(1, 9, 7)).astype(np.float32)
    sizes = []
    model.register_forward_pre_hook(lambda _, given: sizes.append(tuple(given[0].shape[2:])))
    assert predict(volume, model).shape == (1, 9, 7)
    assert sizes == [(1, 9, 7)]
