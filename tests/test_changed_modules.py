"""A network that somebody changed, or that something looks into, is computed by PyTorch: its result, or its error."""

import copy
import functools

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrizations, prune
from torch.utils._python_dispatch import TorchDispatchMode

from micronet.core.errors import InputError
from micronet.networks import engine
from micronet.networks.models import MicroNet, MicroRNet
from micronet.segment.refine import refine
from micronet.segment.slabs import works_in_slabs


@pytest.fixture(autouse=True)
def _alone():
    """Compute with one thread: several would wait for each other at so small a volume."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    engine.choose("auto")


@pytest.fixture
def model():
    torch.manual_seed(11)
    return MicroRNet()


@pytest.fixture
def x():
    return torch.randn(1, 2, 32, 33, 34, generator=torch.Generator().manual_seed(1))


def by_torch(job):
    engine.choose("torch")
    try:
        return job()
    finally:
        engine.choose("auto")


def passes(model, x):
    """Return the result and the gradient of every parameter."""
    model.zero_grad()
    result = model(x)
    (result * torch.linspace(0, 1, result.numel()).view(result.shape)).sum().backward()
    return [result.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def look(model, x):
    with torch.no_grad():
        return [model(x)]


def assert_pytorchs(model, x, exactly=True, run=passes):
    found, expected = run(model, x), by_torch(lambda: run(model, x))
    assert len(found) == len(expected)
    for ours, right in zip(found, expected, strict=True):
        if exactly:
            torch.testing.assert_close(ours, right, rtol=0, atol=0)
        else:
            torch.testing.assert_close(ours, right, rtol=1e-3, atol=1e-4 * right.abs().max().item())


def is_served(model, x):
    return bool(model.engine_parameters()) and engine.serves(x, model.engine_parameters())


def replace_last(model):
    model.up0[-1] = nn.Softplus()


def add_a_layer(model):
    model.up1.append(nn.Tanh())


def widen(model):
    model.up1[3] = nn.Conv3d(4, 4, 5, padding=2, padding_mode="reflect")


def pad_with_zeros(model):
    model.down0[0].padding_mode = "zeros"


def pool_the_largest(model):
    model.down1[0] = nn.MaxPool3d(4)


def use_one_layer_twice(model):
    model.up1[4] = model.up1[3]


def leave_a_bias_away(model):
    model.up0[3].bias = None


def hook_a_layer(model):
    model.up0[1].register_forward_hook(lambda module, given, result: 2 * result)


def hook_before_a_layer(model):
    model.down1[1].register_forward_pre_hook(lambda module, given: (given[0] + 1,))


def hook_backwards(model):
    model.up0[1].register_full_backward_hook(lambda module, given, result: (3 * given[0],))


def normalise_weights(model):
    parametrizations.weight_norm(model.up0[1])
    with torch.no_grad():
        model.up0[1].parametrizations.weight.original0.mul_(2)


def normalise_weights_as_of_old(model):
    with pytest.warns(FutureWarning, match="deprecated"):
        nn.utils.weight_norm(model.up0[1])


def prune_weights(model):
    prune.l1_unstructured(model.up0[1], "weight", 0.5)


def override_a_layers_forward(model):
    layer = model.up0[2]
    layer.forward = lambda given: torch.relu(given)


CHANGES = [
    replace_last,
    add_a_layer,
    widen,
    pad_with_zeros,
    pool_the_largest,
    use_one_layer_twice,
    leave_a_bias_away,
    hook_a_layer,
    hook_before_a_layer,
    hook_backwards,
    normalise_weights,
    normalise_weights_as_of_old,
    prune_weights,
    override_a_layers_forward,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_layer_is_left_to_pytorch(model, x, change):
    assert is_served(model, x)
    change(model)
    assert not is_served(model, x)
    assert not works_in_slabs(model)
    assert_pytorchs(model, x, run=passes if change in (hook_backwards, normalise_weights, prune_weights) else look)


@pytest.mark.parametrize("change", CHANGES[:1] + CHANGES[7:8], ids=lambda change: change.__name__)
def test_refining_with_a_changed_network_gives_what_a_call_gives(model, x, change):
    change(model)
    image, start = x[0, 0].numpy(), np.zeros(x.shape[2:], np.float32)
    found = refine(image, start, model, 2)
    expected = by_torch(lambda: refine(image, start, model, 2))
    np.testing.assert_array_equal(found, expected)


def test_what_is_undone_is_served_again(model, x):
    hooks = [
        model.up0[1].register_forward_hook(lambda module, given, result: None),
        model.up0[1].register_full_backward_hook(lambda module, given, result: None),
    ]
    prune.l1_unstructured(model.up0[0], "weight", 0.5)
    assert not is_served(model, x)
    for hook in hooks:
        hook.remove()
    prune.remove(model.up0[0], "weight")
    assert is_served(model, x)
    assert is_served(copy.deepcopy(model).eval(), x)
    assert_pytorchs(model, x, exactly=False)


def test_hooks_for_every_module_are_called_for_every_module(model, x):
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, given, result: seen.append(type(module)))
    try:
        assert not is_served(model, x)
        model(x)
    finally:
        handle.remove()
    assert seen.count(nn.Conv3d) == 16
    assert seen[-1] is MicroRNet
    assert is_served(model, x)


def test_hooks_of_the_network_itself_are_called_once_and_the_engine_computes(model, x):
    gradients = []
    model.register_forward_hook(lambda module, given, result: result / 2)
    model.register_full_backward_hook(lambda module, given, result: gradients.append(result[0].abs().sum().item()))
    with pytest.warns(UserWarning, match="no inputs require gradients"):
        assert_pytorchs(model, x, exactly=False)
    assert len(gradients) == 2
    # what computes without a call must leave such a network to PyTorch
    assert not is_served(model, x)
    image, start = x[0, 0].numpy(), np.zeros(x.shape[2:], np.float32)
    expected = by_torch(lambda: refine(image, start, model, 1))
    np.testing.assert_allclose(refine(image, start, model, 1), expected, rtol=0, atol=1e-6)


def test_a_forward_of_ones_own_is_what_refining_calls(x):
    class Doubled(MicroRNet):
        def forward(self, given):
            return super().forward(given) / 2

    torch.manual_seed(11)
    plain, doubled = MicroRNet(), Doubled()
    doubled.load_state_dict(plain.state_dict())
    on_instance = copy.deepcopy(plain)
    on_instance.forward = lambda given: plain(given) / 2
    image, start = x[0, 0].numpy(), np.zeros(x.shape[2:], np.float32)
    expected = refine(image, start, plain, 1) / 2
    for model in (doubled, on_instance):
        assert not works_in_slabs(model)
        np.testing.assert_allclose(refine(image, start, model, 1), expected, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated:DeprecationWarning")
def test_a_traced_network_computes_with_new_weights_and_other_shapes(model, x):
    with pytest.warns(torch.jit.TracerWarning):
        traced = torch.jit.trace(model, x)
    assert "_convolution" in str(traced.inlined_graph)
    other = torch.randn(2, 2, 36, 40, 33, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for parameter in traced.parameters():
            parameter.mul_(0.5)
    assert is_served(model, x)  # its weights are those of the trace
    torch.testing.assert_close(traced(other), model(other), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated:DeprecationWarning")
def test_a_scripted_network_computes_what_the_network_does(model, x):
    scripted = torch.jit.script(model)
    torch.testing.assert_close(scripted(x), by_torch(lambda: model(x)), rtol=0, atol=1e-6)
    assert is_served(model, x)


@pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated:DeprecationWarning")
def test_transforms_of_functions_give_pytorchs_numbers(model, x):
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(values, given):
        return torch.func.functional_call(model, values, (given,)).mean()

    found = torch.func.grad(loss)(parameters, x)
    expected = by_torch(lambda: torch.func.grad(loss)(parameters, x))
    assert all(torch.equal(found[name], right) for name, right in expected.items())

    samples = torch.cat([x, x + 1])[:, None]
    each = torch.func.vmap(functools.partial(torch.func.functional_call, model, parameters))(samples)
    torch.testing.assert_close(each[:, 0], model(samples[:, 0]), rtol=0, atol=1e-5)

    direction = {name: torch.ones_like(value) for name, value in parameters.items()}
    value, slope = torch.func.jvp(lambda values: loss(values, x), (parameters,), (direction,))
    torch.testing.assert_close(value, loss(parameters, x), rtol=0, atol=1e-6)
    torch.testing.assert_close(slope, sum(g.sum() for g in expected.values()), rtol=1e-3, atol=1e-5)


def test_functional_call_computes_with_the_parameters_that_it_is_given(model, x):
    parameters = {name: (2 * parameter.detach()).requires_grad_() for name, parameter in model.named_parameters()}
    torch.func.functional_call(model, parameters, (x,)).mean().backward()
    doubled = MicroRNet()
    doubled.load_state_dict(parameters)
    doubled(x).mean().backward()
    for name, parameter in doubled.named_parameters():
        torch.testing.assert_close(parameters[name].grad, parameter.grad, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated:DeprecationWarning")
def test_derivatives_forward_are_pytorchs(model, x):
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(4))

    def slope():
        with forward_ad.dual_level(), torch.no_grad():
            return forward_ad.unpack_dual(model(forward_ad.make_dual(x, direction))).tangent

    found = slope()
    assert found.abs().max() > 0.01
    assert torch.equal(found, by_torch(slope))


def test_a_mode_sees_every_operation(model, x):
    seen = []

    class Listing(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    with torch.no_grad(), Listing():
        model(x)
    assert sum("convolution" in name for name in seen) == 16


def test_an_empty_batch_gives_an_empty_result(model, x):
    nothing = x[:0]
    expected = by_torch(lambda: model(nothing))
    found = model(nothing)
    assert found.shape == expected.shape == (0, 1, 32, 33, 34)
    found.sum().backward()
    assert all(not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("name", ["down0.0.weight", "bottom.4.weight", "up0.4.weight"])
def test_a_weight_changed_between_forward_and_backward_is_noticed_as_by_pytorch(model, x, name):
    def job():
        loss = model(x).sum()
        with torch.no_grad():
            dict(model.named_parameters())[name].mul_(1.0)
        loss.backward()

    for run in (lambda: by_torch(job), job):
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            run()


def test_a_bias_changed_between_forward_and_backward_changes_no_gradient_as_in_pytorch(model, x):
    right = passes(model, x)

    def job():
        model.zero_grad()
        result = model(x)
        with torch.no_grad():
            model.up0[0].bias.add_(1.0)
        (result * torch.linspace(0, 1, result.numel()).view(result.shape)).sum().backward()
        with torch.no_grad():
            model.up0[0].bias.sub_(1.0)
        return [p.grad.clone() for p in model.parameters()]

    for found in (job(), by_torch(job)):
        for ours, expected in zip(found, right[1:], strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def test_an_optimiser_that_steps_between_forward_and_backward_is_noticed(model, x):
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    model(x).sum().backward()
    later = model(x).sum()
    optimiser.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        later.backward()


def test_weights_made_under_inference_mode_raise_what_pytorch_raises(x):
    with torch.inference_mode():
        model = MicroRNet()
    messages = []
    for run in (lambda: model(x), lambda: by_torch(lambda: model(x))):
        try:
            messages.append(run().shape)
        except RuntimeError as error:
            messages.append(str(error)[:40])
    assert messages[0] == messages[1]


def test_weights_and_images_in_other_layouts(model, x):
    assert_pytorchs(copy.deepcopy(model).to(memory_format=torch.channels_last_3d), x, exactly=False)
    assert_pytorchs(model, x.to(memory_format=torch.channels_last_3d), exactly=False)
    assert_pytorchs(model, x.transpose(3, 4), exactly=False)
    negative = torch.complex(torch.zeros_like(x), -x).conj().imag
    assert negative.is_neg()
    assert_pytorchs(model, negative)


def test_frozen_layers_and_other_number_types_are_pytorchs(model, x):
    model.down0.requires_grad_(False)
    assert_pytorchs(model, x, exactly=False)
    model.requires_grad_(False)
    assert not model(x).requires_grad
    model.requires_grad_(True)
    assert_pytorchs(copy.deepcopy(model).double(), x.double())
    model.up0[3].double()
    for run in (lambda: model(x), lambda: by_torch(lambda: model(x))):
        with pytest.raises(RuntimeError, match=r"type|dtype"):
            run()


def test_autocast_is_pytorchs(model, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not is_served(model, x)
        found = model(x)
        assert torch.equal(found, by_torch(lambda: model(x)))


def test_the_engine_that_is_demanded_refuses_a_changed_network(model, x):
    replace_last(model)
    engine.choose("numba")
    with pytest.raises(
        InputError, match=r"the numba engine computes .* layers of a µ-Net or µr-Net as they were built"
    ):
        model(x)


def test_looking_for_changes_draws_no_random_numbers():
    from micronet.networks.models import _layout

    _layout.cache_clear()
    torch.manual_seed(3)
    network = MicroNet()
    after = torch.random.get_rng_state()
    network(torch.zeros(1, 1, 32, 32, 32))
    assert torch.equal(torch.random.get_rng_state(), after)
