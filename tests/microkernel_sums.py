"""The micro-kernels on two tiny planes, against the sums that they stand for, at the width of this process."""

import ctypes

import numpy as np

from micronet.networks.kernels.jit import LANES
from micronet.networks.kernels.microkernels import BAND, LINEAR, SELU, SIGMOID, kernel_addresses

_ROWS, _WIDTH = 2 * BAND, 2 * LANES
#: Outputs of a plane with its rim: a row above and below, a vector on either side.
_INSIDE = np.s_[..., 1:-1, LANES:-LANES]


def check():
    """AssertionError if a micro-kernel gives other sums than float64, beyond float32's rounding."""
    rng = np.random.default_rng(5)
    planes, gradients = (rng.standard_normal((n, _ROWS + 2, _WIDTH + 2 * LANES)).astype(np.float32) for n in (2, 4))
    weights = rng.standard_normal((2, 3, 3, 4)).astype(np.float32)  # plane, dx, dy, output
    bias = rng.standard_normal(4).astype(np.float32)
    first, second, correlate = (
        ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * count)(address)
        for count, address in zip((9, 9, 7), kernel_addresses(), strict=True)
    )
    _check_convolution(first, planes, weights, bias, SELU, _selu)
    _check_convolution(second, planes, weights, bias, SIGMOID, lambda x: 1 / (1 + np.exp(-x)))
    _check_correlation(correlate, planes, gradients)


def _selu(x):
    return 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x))


def _shifted(plane, dy, dx):
    """Return what a kernel of 3 x 3 sees of a plane at (dy, dx), in float64."""
    return plane[dy : dy + _ROWS, LANES + dx - 1 : LANES + dx - 1 + _WIDTH].astype(float)


def _check_convolution(convolve, planes, weights, bias, activation, curve):
    """With a bias, linear and through the activation; and without, on top of what is there."""
    outputs = 4 if activation == SELU else 1
    sums = np.zeros((outputs, _ROWS, _WIDTH))
    for plane, block in zip(planes, weights, strict=True):
        for dx, dy, output in np.ndindex(3, 3, outputs):
            sums[output] += block[dx, dy, output] * _shifted(plane, dy, dx)
    taps = np.array(
        [[plane[0, LANES:].ctypes.data, block.ctypes.data] for plane, block in zip(planes, weights, strict=True)]
    )
    found = np.zeros((outputs, *planes.shape[1:]), np.float32)

    def run(address, kind):
        begin = found[0, 1, LANES:].ctypes.data
        convolve(taps.ctypes.data, 2, begin, found.strides[0], found.strides[1], 2, 2, address, int(kind))
        return found[_INSIDE]

    whole = sums + bias[:outputs, None, None]
    np.testing.assert_allclose(run(bias.ctypes.data, LINEAR), whole, rtol=0, atol=1e-5)
    np.testing.assert_allclose(run(0, LINEAR), whole + sums, rtol=0, atol=2e-5)
    np.testing.assert_allclose(run(bias.ctypes.data, activation), curve(whole), rtol=0, atol=1e-5)
    outside = found.copy()
    outside[_INSIDE] = 0
    assert not outside.any()


def _check_correlation(correlate, planes, gradients):
    """Of a height that is no multiple of what is done at once; sums go on from what is there."""
    height = _ROWS - 1
    sums = np.ones((2, 3, 4, LANES), np.float32)
    taps = np.array(
        [[plane[1, LANES:].ctypes.data, each.ctypes.data] for plane, each in zip(planes, sums, strict=True)]
    )
    begin = gradients[0, 1, LANES:].ctypes.data
    correlate(taps.ctypes.data, 1, begin, gradients.strides[0], gradients.strides[1], height, 2)
    for tap, dx, output in np.ndindex(2, 3, 4):
        products = gradients[output][_INSIDE].astype(float) * _shifted(planes[tap], 1, dx)
        expected = LANES + products[:height].sum()
        np.testing.assert_allclose(sums[tap, dx, output].sum(dtype=float), expected, rtol=0, atol=1e-4)
