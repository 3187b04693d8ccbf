"""Float64 oracles of the networks: PyTorch's modules with a 3-D convolution that does not take seconds.

PyTorch has no fast float64 convolution on a CPU; its general one writes 27 copies of its input. All else that the
networks do is PyTorch's own here. test_kernels_network.py holds the convolution and its gradients against PyTorch's.
"""

import functools
import itertools

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

_BLOCK = 32768  # voxels: their sums stay in the caches


def double(model):
    """Return a twin of a µ-Net or µr-Net in float64; it takes one sample."""
    twin = type(model)().double()
    twin.load_state_dict({name: tensor.double() for name, tensor in model.state_dict().items()})
    for module in twin.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.forward = functools.partial(_reflect_and_convolve, module)
    return twin


def _reflect_and_convolve(module, x):
    assert x.shape[0] == 1
    assert module.kernel_size == (3, 3, 3)
    assert (module.padding_mode, module.padding, module.stride) == ("reflect", (1, 1, 1), (1, 1, 1))
    return Convolution.apply(pad(x, (1,) * 6, mode="reflect"), module.weight, module.bias)


class Convolution(torch.autograd.Function):
    """A 3 x 3 x 3 convolution as 27 products of matrices.

    Where a channel is one row of voxels, moving by (dz, dy, dx) is moving along the row. What is computed across the
    edges of the volume is no part of the result.
    """

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        depth, height, width = (n - 2 for n in x.shape[2:])
        rows, moves = _rows(x), _moves(x)
        result = x.new_zeros(len(weight), depth * x[0, 0, 0].numel())
        for a, b in _blocks(result.shape[1] - moves[8][1]):
            result[:, a:b] = bias[:, None]
            for (dz, dy, dx), by in moves:
                result[:, a:b].addmm_(weight[:, :, dz, dy, dx], rows[:, a + by : b + by])
        return result.reshape(1, len(weight), depth, *x.shape[3:])[..., :height, :width]

    @staticmethod
    @once_differentiable
    def backward(ctx, given):
        x, weight = ctx.saved_tensors
        rows, moves = _rows(x), _moves(x)
        given_rows = _rows(pad(given, (0, 2, 0, 2)))
        weight_gradient = torch.zeros_like(weight)
        for a, b in _blocks(given_rows.shape[1] - moves[8][1]):
            for (dz, dy, dx), by in moves:
                weight_gradient[:, :, dz, dy, dx] += given_rows[:, a:b] @ rows[:, a + by : b + by].T
        if not ctx.needs_input_grad[0]:
            return None, weight_gradient, given.sum((0, 2, 3, 4))
        far = moves[-1][1]
        x_gradient, given_rows = torch.zeros_like(rows), pad(given_rows, (far, far))
        for a, b in _blocks(rows.shape[1]):
            for (dz, dy, dx), by in moves:
                x_gradient[:, a:b].addmm_(weight[:, :, dz, dy, dx].T, given_rows[:, a + far - by : b + far - by])
        return x_gradient.reshape(x.shape), weight_gradient, given.sum((0, 2, 3, 4))


def _rows(x):
    return x.reshape(x.shape[1], -1)


def _moves(x):
    """Return each (dz, dy, dx) with how far along a row of voxels it leads; the ninth leads to the end of a plane's."""
    plane, row = x[0, 0, 0].numel(), x.shape[4]
    return [((dz, dy, dx), dz * plane + dy * row + dx) for dz, dy, dx in itertools.product(range(3), repeat=3)]


def _blocks(length):
    return [(a, min(a + _BLOCK, length)) for a in range(0, length, _BLOCK)]
