"""The engine inside PyTorch's graph: it behaves as the module did without it, and hands over by one rule."""

import copy

import pytest
import torch

from micronet.core.errors import InputError
from micronet.networks import engine
from micronet.networks.models import MicroNet, MicroRNet


@pytest.fixture(autouse=True)
def _automatic():
    yield
    engine.choose("auto")


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def by_torch(job):
    engine.choose("torch")
    try:
        return job()
    finally:
        engine.choose("auto")


def assert_close(found, expected, tolerance=1e-4):
    for name, right in expected.items():
        assert (found[name] - right).norm() <= tolerance * right.norm() + 1e-12, name


@pytest.fixture
def model():
    torch.manual_seed(11)
    return MicroRNet()


def random_input(samples=1, channels=2, shape=(32, 36, 41)):
    return torch.randn(samples, channels, *shape, generator=torch.Generator().manual_seed(samples))


def test_batches_several_forwards_and_double_use(model):
    a, b = random_input(2), random_input(1)

    def job():
        model.zero_grad()
        first, second = model(a), model(b)  # two forwards before one backward, one model used twice
        (first.mean() * 3 + (second * first[:1]).sum()).backward()
        return first.detach().clone(), gradients(model)

    expected, right = by_torch(job)
    found, ours = job()
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-6)
    assert_close(ours, right)


def test_optimiser_follows_the_same_path():
    losses = []
    for choice in ("torch", "auto"):
        engine.choose(choice)
        torch.manual_seed(3)
        network = MicroNet()
        optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
        x = random_input(1, 1)
        target = (x > 1).float()
        losses.append([])
        for _ in range(4):
            optimiser.zero_grad()
            loss = 1 - 2 * (network(x) * target).sum() / (network(x).sum() + target.sum())
            loss.backward()
            optimiser.step()
            losses[-1].append(loss.item())
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert losses[1][-1] != losses[1][0]


def test_gradient_of_the_input_comes_from_pytorch(model):
    x = random_input().requires_grad_()
    assert not engine.serves(x, dict(model.named_parameters()))
    model(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_rule(model):
    parameters, x = dict(model.named_parameters()), random_input()
    assert engine.serves(x, parameters)
    assert not engine.serves(x.double(), parameters)
    assert not engine.serves(x, dict(copy.deepcopy(model).double().named_parameters()))
    with torch.no_grad():
        assert engine.serves(x.clone().requires_grad_(), parameters)
    engine.choose("torch")
    assert not engine.serves(x, parameters)
    engine.choose("numba")
    with pytest.raises(InputError, match="computes float32 on the CPU"):
        engine.serves(x.double(), parameters)
    with pytest.raises(InputError, match="engine 'fast' is unknown"):
        engine.choose("fast")


def test_second_backward_needs_retain_graph(model):
    loss = model(random_input()).sum()
    loss.backward(retain_graph=True)
    once = gradients(model)
    loss.backward()
    assert_close(gradients(model), {name: 2 * g for name, g in once.items()}, 1e-6)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_input_changed_before_backward_is_noticed(model):
    x = random_input()
    loss = model(x).sum()
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_frozen_parameters_get_no_gradient(model):
    model.down0.requires_grad_(False)
    model(random_input()).sum().backward()
    assert model.down0[0].weight.grad is None
    assert model.up0[0].weight.grad is not None


def test_no_grad_and_inference_mode_give_plain_tensors(model):
    x = random_input()
    with torch.no_grad():
        assert not model(x).requires_grad
    with torch.inference_mode():
        assert model(x).shape == (1, 1, 32, 36, 41)
