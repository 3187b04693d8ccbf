"""The networks: parameters, initialisation, shapes, bootstrap."""

import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from micronet.core.errors import InputError
from micronet.networks.models import MicroNet, MicroRNet
from micronet.networks.registry import model_for_state
from micronet.networks.weights import bootstrap


@pytest.mark.parametrize(("network", "parameters"), [(MicroNet, 6402), (MicroRNet, 6618)])
def test_number_of_parameters_and_tensors_is_as_published(network, parameters):
    model = network()

    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(model.state_dict()) == 32
    assert all(tensor.dtype == torch.float32 for tensor in model.state_dict().values())


def test_initial_weights_are_the_published_draws_when_seeded_as_published():
    torch.manual_seed(43283)
    model = MicroNet()

    expected = torch.tensor([-0.210431, 0.018289, -0.313787, 0.198351])
    assert torch.allclose(model.down0[0].weight.flatten()[:4], expected, atol=1e-6)
    assert all(not module.bias.any() for module in model.modules() if isinstance(module, torch.nn.Conv3d))


def test_weight_shapes_are_as_published():
    shapes = {key: tuple(t.shape[:2]) for key, t in MicroRNet().state_dict().items() if key.endswith("weight")}

    assert shapes == {
        "down0.0.weight": (4, 1),
        "down0.1.weight": (4, 4),
        "down1.1.weight": (4, 5),
        "down1.2.weight": (4, 4),
        "bottom.1.weight": (3, 4),
        "bottom.2.weight": (3, 3),
        "bottom.4.weight": (3, 3),
        "bottom.5.weight": (3, 3),
        "up1.0.weight": (4, 7),
        "up1.1.weight": (4, 4),
        "up1.3.weight": (4, 4),
        "up1.4.weight": (4, 4),
        "up0.0.weight": (4, 9),
        "up0.1.weight": (4, 4),
        "up0.3.weight": (4, 4),
        "up0.4.weight": (1, 4),
    }
    assert MicroNet().down1[1].weight.shape[1] == 4
    assert MicroNet().up0[0].weight.shape[1] == 8


@pytest.mark.parametrize("shape", [(32, 32, 32), (33, 47, 50), (64, 35, 32)])
def test_output_keeps_the_shape_and_lies_between_0_and_1(shape):
    probability = MicroNet()(torch.randn(2, 1, *shape))

    assert probability.shape == (2, 1, *shape)
    assert 0 <= probability.min()
    assert probability.max() <= 1


@pytest.mark.parametrize(
    ("network", "shape"),
    [(MicroNet, (1, 2, 32, 32, 32)), (MicroRNet, (1, 1, 32, 32, 32)), (MicroNet, (1, 1, 31, 32, 32))],
)
def test_wrong_channels_or_a_short_axis_are_refused(network, shape):
    with pytest.raises(InputError, match=r"takes \(N, \d, D, H, W\) with D, H, W of at least 32, found \(1, "):
        network()(torch.zeros(shape))


def test_state_decides_the_network_and_leaves_the_random_stream_alone():
    torch.manual_seed(1)
    states = [MicroNet().state_dict(), MicroRNet().state_dict()]
    before = torch.random.get_rng_state()

    models = [model_for_state(state) for state in states]

    assert [type(model) for model in models] == [MicroNet, MicroRNet]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(models[1].state_dict()[key], tensor) for key, tensor in states[1].items())


def test_segmentation_imports_no_compiler_and_nothing_that_few_ask_for():
    code = (
        "import sys, micronet.app.segmenting; from micronet.networks.models import MicroNet; "
        "from micronet.networks.registry import model_for_state; model_for_state(MicroNet().state_dict()); "
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True
    )

    assert "micronet.segment.job" in done.stdout.split()
    assert not {"torch._dynamo", "skimage", "scipy.ndimage"} & set(done.stdout.split())


def test_training_imports_no_compiler_either():
    """Nor does any of its optimisers, which are PyTorch's to the bit (tests/test_network_training.py)."""
    code = (
        "import sys, torch\n"
        "from micronet.training.optimisers import SGD, Adam, AdamW, RMSprop\n"
        "from micronet.training.soap import Soap\n"
        "for kind in (SGD, Adam, AdamW, RMSprop, Soap):\n"
        "    weight = torch.nn.Parameter(torch.ones(3, 4))\n"
        "    optimiser = kind([weight], lr=0.1)\n"
        "    optimiser.load_state_dict(optimiser.state_dict())\n"
        "    for _ in range(2):\n"
        "        optimiser.zero_grad()\n"
        "        weight.pow(2).sum().backward()\n"
        "        optimiser.step()\n"
        "    assert weight.max() < 1 and weight.requires_grad\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=True)


def test_a_state_of_neither_network_says_what_is_wrong():
    state = MicroNet().state_dict()
    del state["up0.4.bias"]
    state["classifier.weight"] = torch.zeros(3)
    state["bottom.1.weight"] = torch.zeros(3, 5, 3, 3, 3)

    with pytest.raises(InputError, match=r"against u-net: missing: up0.4.bias; extra: classifier.weight; ") as error:
        model_for_state(state)

    assert "misshaped: bottom.1.weight (3, 5, 3, 3, 3) instead of (3, 4, 3, 3, 3)" in str(error.value)


def test_a_broken_state_is_compared_with_the_nearer_network():
    state = MicroRNet().state_dict()
    del state["up0.4.bias"]

    with pytest.raises(InputError, match=r"against ur-net: missing: up0.4.bias$"):
        model_for_state(state)


def test_weights_that_are_not_finite_are_refused():
    state = MicroNet().state_dict()
    state["down1.1.bias"][2] = float("nan")

    with pytest.raises(InputError, match=r"not finite, first in 'down1.1.bias'"):
        model_for_state(state)


def test_bootstrapped_network_equals_u_net_for_any_mask():
    torch.manual_seed(5)
    micro = MicroNet()
    refiner = model_for_state(bootstrap(micro.state_dict()))
    image, mask = torch.randn(1, 1, 40, 36, 33), torch.randn(1, 1, 40, 36, 33)

    with torch.no_grad():
        difference = refiner(torch.cat((image, mask), dim=1)) - micro(image)

    assert isinstance(refiner, MicroRNet)
    assert difference.abs().max() < 1e-6  # exact zeros added; only the order of summation may differ


def test_bootstrap_prepends_zeros_to_two_weights_and_changes_nothing_else():
    state = MicroNet().state_dict()
    result = bootstrap(state)

    changed = {key for key in state if state[key].shape != result[key].shape}
    assert changed == {"down1.1.weight", "up0.0.weight"}
    for key in changed:
        assert not result[key][:, 0].any()
        assert torch.equal(result[key][:, 1:], state[key])
    assert all(torch.equal(result[key], state[key]) for key in state.keys() - changed)
    assert isinstance(result, OrderedDict)


def test_bootstrap_refuses_a_refiner():
    with pytest.raises(InputError, match="are a µr-Net already"):
        bootstrap(MicroRNet().state_dict())
