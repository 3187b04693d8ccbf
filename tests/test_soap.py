"""The optimiser: hand-worked first steps, PyTorch's Adam where both are the same, and what Adam cannot do."""

import numpy as np
import pytest
import torch

from micronet.core.errors import InputError
from micronet.training.soap import Soap


def rotation(n, seed):
    return torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))[0]


def walk(parameter, gradients, lr=0.1):
    """Take a step for each gradient; return where the parameter was after each."""
    optimizer, places = Soap([parameter], lr=lr), []
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        places.append(parameter.detach().clone())
    return places


def some_gradients(*shape, count=12, seed=1):
    return torch.randn(count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_first_step_of_a_diagonal_gradient_is_its_sign():
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    (after,) = walk(weight, [torch.tensor([[3.0, 0.0], [0.0, -0.2]])])
    assert after.numpy() == pytest.approx(np.array([[-0.1, 0.0], [0.0, 0.1]]), abs=1e-4)


def test_the_first_step_is_along_every_singular_direction_alike():
    gradient = some_gradients(4, 9, count=1)[0]
    u, _, vt = np.linalg.svd(gradient.numpy(), full_matrices=False)
    (after,) = walk(torch.nn.Parameter(torch.zeros(4, 9, dtype=torch.float64)), [gradient])
    assert after.numpy() == pytest.approx(-0.1 * u @ vt, abs=1e-4)


def test_biases_go_as_with_adam():
    gradients = some_gradients(5)
    mine = walk(torch.nn.Parameter(torch.zeros(5, dtype=torch.float64)), gradients)
    bias = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64))
    adam = torch.optim.Adam([bias], lr=0.1, betas=(0.95, 0.95), eps=0)
    for gradient, place in zip(gradients, mine, strict=True):
        bias.grad = gradient.clone()
        adam.step()
        assert place.numpy() == pytest.approx(bias.detach().numpy(), abs=1e-4)


def test_where_only_one_axis_of_each_side_has_a_gradient_it_goes_as_adam():
    """Axes that do not turn: the same as Adam on the only number that changes."""
    sizes = some_gradients(1)[:, 0]
    gradients = torch.zeros(12, 3, 4, dtype=torch.float64)
    gradients[:, 1, 2] = sizes
    mine = walk(torch.nn.Parameter(torch.zeros(3, 4, dtype=torch.float64)), gradients)
    alone = walk(torch.nn.Parameter(torch.zeros(1, dtype=torch.float64)), sizes[:, None])
    for place, one in zip(mine, alone, strict=True):
        assert place[1, 2].item() == pytest.approx(one.item(), rel=1e-3)
        place[1, 2] = 0
        assert place.abs().max() < 1e-12


def test_it_does_not_matter_how_the_axes_lie():
    """A layer whose inputs and outputs are mixed by rotations takes the mixed steps: Adam does not."""
    u, v, gradients = rotation(4, 1), rotation(4, 2), some_gradients(4, 4)
    straight = walk(torch.nn.Parameter(torch.zeros(4, 4, dtype=torch.float64)), gradients)
    mixed = walk(torch.nn.Parameter(torch.zeros(4, 4, dtype=torch.float64)), u @ gradients @ v)
    for a, b in zip(straight, mixed, strict=True):
        assert (u @ a @ v).numpy() == pytest.approx(b.numpy(), abs=1e-6)


def test_an_ill_conditioned_valley_is_left_sooner_than_by_adam():
    """Least squares, condition 1e4, in axes that are not the weights': a tenth of the loss of Adam at its best rate."""
    turn = rotation(12, 3)
    metric = turn @ torch.diag(torch.logspace(-4, 0, 12, dtype=torch.float64)) @ turn.T

    def left(make):
        weight = torch.nn.Parameter(torch.ones(3, 12, dtype=torch.float64))
        optimizer = make([weight])
        for step in range(300):
            for group in optimizer.param_groups:
                group["lr"] *= (299 - step) / (300 - step)
            optimizer.zero_grad()
            loss = (weight @ metric * weight).sum()
            loss.backward()
            optimizer.step()
        return loss.item()

    rates = (0.003, 0.01, 0.03, 0.1)
    adam = min(left(lambda p, rate=rate: torch.optim.Adam(p, lr=rate)) for rate in rates)
    assert min(left(lambda p, rate=rate: Soap(p, lr=rate)) for rate in rates) < 0.1 * adam


def test_it_goes_on_from_its_state_to_the_bit():
    torch.manual_seed(0)
    whole, part = (torch.nn.Conv3d(2, 3, 3) for _ in range(2))
    part.load_state_dict(whole.state_dict())
    gradients = [[torch.randn_like(p) for p in whole.parameters()] for _ in range(13)]

    def go(module, optimizer, steps):
        for step in steps:
            for parameter, gradient in zip(module.parameters(), step, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()

    go(whole, Soap(whole.parameters(), lr=0.01), gradients)
    first = Soap(part.parameters(), lr=0.01)
    go(part, first, gradients[:7])
    again = Soap(part.parameters(), lr=0.5)
    again.load_state_dict(first.state_dict())
    go(part, again, gradients[7:])
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), part.parameters(), strict=True))


def test_no_gradient_moves_nothing():
    weight = torch.nn.Parameter(torch.ones(2, 3))
    assert torch.equal(walk(weight, torch.zeros(3, 2, 3))[-1], torch.ones(2, 3))
    weight.grad = None
    Soap([weight], lr=1).step()
    assert torch.equal(weight, torch.ones(2, 3))


def test_a_gradient_that_is_not_finite_raises_nothing():
    """The weights are lost then, as with Adam; the session says so."""
    weight = torch.nn.Parameter(torch.ones(2, 3))
    gradient = torch.ones(6, 2, 3)
    gradient[1, 0, 0] = torch.nan
    assert torch.isnan(walk(weight, gradient)[-1]).any()


def test_a_closure_gives_gradients_and_loss():
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = Soap([weight], lr=0.5)

    def closure():
        optimizer.zero_grad()
        loss = (weight**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 4.0
    assert weight.item() == pytest.approx(1.5, abs=1e-4)


@pytest.mark.parametrize("lr", [0, -1.0, float("nan")])
def test_a_rate_must_be_positive(lr):
    with pytest.raises(InputError, match="the learning rate must be positive"):
        Soap([torch.nn.Parameter(torch.zeros(1))], lr=lr)
