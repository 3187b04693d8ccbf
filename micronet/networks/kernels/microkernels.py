"""The two innermost kernels: where every convolution and every weight gradient is computed.

Both work on one band of a plane after another (a band is `BAND` rows) with everything they accumulate in vector
registers, and know nothing of volumes: they get the addresses of planes (layout.py). Both are compiled once, as C
functions; `convolve` and `correlate` call them.
"""

from __future__ import annotations

import functools
from typing import Any, cast

import numpy as np
from numba import types
from numba.extending import intrinsic

from micronet.networks.kernels.jit import LANES, compile_c
from micronet.networks.kernels.simd import FLOAT_BYTES, Simd

__all__ = ["BAND", "BLOCK", "LINEAR", "SELU", "SIGMOID", "kernel_addresses"]

#: Rows computed together: as many as the registers hold (32 vectors with AVX-512 and NEON, 16 with AVX2 and SSE).
BAND = {16: 5, 8: 2, 4: 5, 1: 2}[LANES]

#: Floats of one block of weights, [dx 3][dy 3][output 4]: what one input plane adds to four output planes.
BLOCK = 36

#: Activations. Typed, as numba compiles a function anew for each plain number that is written into a call.
LINEAR, SELU, SIGMOID = (cast(int, np.int64(kind)) for kind in range(3))

_STRIP = 4  # rows of a correlation between two changes of taps: their gradients stay in the first cache
_VECTOR_BYTES = LANES * FLOAT_BYTES
_AHEAD = 128  # bytes that the next reads of a row lie ahead, measured best


def _convolution(outputs: int) -> Any:
    """Build the convolution with `outputs` (4 or 1) output channels; see `kernel_addresses`."""

    def emit(builder: Any, arguments: Any) -> None:
        taps, count, target, channel, pitch, bands, vectors, bias, activation = arguments
        s = Simd(builder)
        # one output: a sum for each dx, else five chains of additions could not keep two adders busy
        chains = 1 if outputs > 1 else 3
        sums = [[[s.variable() for _ in range(chains)] for _ in range(outputs)] for _ in range(BAND)]

        def place(here: Any, r: int, c: int) -> Any:
            return s.plus(s.plus(target, here), s.plus(s.times(pitch, r), s.times(channel, c)))

        with s.loop(bands) as band, s.loop(vectors) as vector:
            here = s.plus(s.times(s.times(band, pitch), BAND), s.times(vector, _VECTOR_BYTES))
            for row in sums:
                for parts in row:
                    for part in parts:
                        builder.store(s.constant(0.0), part)
            # where gradients are written, vectors start one column before a cache line
            next_column = s.plus(here, FLOAT_BYTES)
            for r in range(BAND):
                for c in range(outputs):
                    s.prefetch(place(next_column, r, c))
            with s.loop(count) as tap:
                entry = s.plus(taps, s.times(tap, 16))
                plane = s.plus(s.load_integer(entry), here)
                weights = s.load_integer(s.plus(entry, 8))
                for dx in range(3):
                    rows = []
                    for r in range(BAND + 2):
                        at = s.plus(s.plus(plane, s.times(pitch, r)), (dx - 1) * FLOAT_BYTES)
                        rows.append(s.load(at))
                        if dx == 1:
                            s.prefetch(s.plus(at, _AHEAD))
                    for dy in range(3):
                        for c in range(outputs):
                            at = s.plus(weights, ((dx * 3 + dy) * 4 + c) * FLOAT_BYTES)
                            weight = s.broadcast(at)
                            for r in range(BAND):
                                total = sums[r][c][dx % chains]
                                builder.store(s.multiply_add(rows[r + dy], weight, builder.load(total)), total)
            for row in sums:
                for total, *others in row:
                    for other in others:
                        builder.store(builder.fadd(builder.load(total), builder.load(other)), total)
            # what went before comes last: two shorter sums round less than a long one
            with builder.if_else(builder.icmp_signed("!=", bias, s.integer(0))) as (anew, further):
                with anew:
                    for row in sums:
                        for c, (total, *_) in enumerate(row):
                            start = s.broadcast(s.plus(bias, c * FLOAT_BYTES))
                            builder.store(builder.fadd(builder.load(total), start), total)
                with further:
                    for r, row in enumerate(sums):
                        for c, (total, *_) in enumerate(row):
                            builder.store(builder.fadd(builder.load(total), s.load(place(here, r, c))), total)
            with s.when(activation):
                curve = s.selu if outputs > 1 else s.sigmoid
                for row in sums:
                    for total, *_ in row:
                        builder.store(curve(builder.load(total)), total)
            for r, row in enumerate(sums):
                for c, (total, *_) in enumerate(row):
                    s.store(builder.load(total), place(here, r, c))

    return emit


def _correlation(builder: Any, arguments: Any) -> None:
    """Emit the correlation; see `kernel_addresses`."""
    taps, pairs, gradient, channel, pitch, height, vectors = arguments
    s = Simd(builder)
    sums = [[[s.variable() for _ in range(4)] for _ in range(3)] for _ in range(2)]
    strip = s.integer(_STRIP)
    with s.loop(builder.sdiv(s.plus(height, _STRIP - 1), strip)) as part, s.loop(pairs) as pair:
        first = s.times(part, _STRIP)
        left = builder.sub(height, first)
        rows = builder.select(builder.icmp_signed("<", left, strip), left, strip)
        entry = s.plus(taps, s.times(pair, 32))
        planes = [s.load_integer(s.plus(entry, 16 * k)) for k in range(2)]
        stores = [s.load_integer(s.plus(entry, 16 * k + 8)) for k in range(2)]
        places = [
            (sums[k][dx][c], s.plus(stores[k], (dx * 4 + c) * _VECTOR_BYTES))
            for k in range(2)
            for dx in range(3)
            for c in range(4)
        ]
        for variable, at in places:
            builder.store(s.load(at), variable)
        with s.loop(rows) as row, s.loop(vectors) as vector:
            here = s.plus(s.times(s.plus(first, row), pitch), s.times(vector, _VECTOR_BYTES))
            at = s.plus(gradient, here)
            given = [s.load(s.plus(at, s.times(channel, c))) for c in range(4)]
            for k in range(2):
                at = s.plus(planes[k], here)
                s.prefetch(s.plus(at, pitch))  # the next row
                for dx in range(3):
                    seen = s.load(s.plus(at, (dx - 1) * FLOAT_BYTES))
                    for c in range(4):
                        variable = sums[k][dx][c]
                        builder.store(s.multiply_add(given[c], seen, builder.load(variable)), variable)
        for variable, at in places:
            s.store(builder.load(variable), at)


def _as_intrinsic(emit: Any, arguments: int) -> Any:
    """Wrap instructions that `emit` writes as a numba function of int64 arguments."""

    def declare(typing: Any, values: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            emit(builder, [builder.extract_value(given[0], k) for k in range(arguments)])
            return context.get_dummy_value()

        return types.void(values), generate

    return intrinsic(declare)


_convolve_4 = _as_intrinsic(_convolution(4), 9)
_convolve_1 = _as_intrinsic(_convolution(1), 9)
_correlate = _as_intrinsic(_correlation, 7)


def convolve_to_4(taps, count, target, channel, pitch, bands, vectors, bias, activation):  # type: ignore[no-untyped-def]
    _convolve_4((taps, count, target, channel, pitch, bands, vectors, bias, activation))


def convolve_to_1(taps, count, target, channel, pitch, bands, vectors, bias, activation):  # type: ignore[no-untyped-def]
    _convolve_1((taps, count, target, channel, pitch, bands, vectors, bias, activation))


def correlate_with_4(taps, pairs, gradient, channel, pitch, height, vectors):  # type: ignore[no-untyped-def]
    _correlate((taps, pairs, gradient, channel, pitch, height, vectors))


@functools.cache
def kernel_addresses() -> tuple[int, int, int]:
    """Compile the micro-kernels (or load them from the cache) and return their addresses.

    All arguments are int64; addresses, strides and pitch are in bytes.

    ``convolve_to_4(taps, count, target, channel, pitch, bands, vectors, bias, activation)``
        Sum over taps t, dy and dx of ``weight_t[dx, dy, c] * plane_t[y + dy - 1, x + dx - 1]``, plus ``bias[c]``,
        then the activation (`LINEAR` or `SELU`), stored at ``target + c * channel`` for c in 0..3. Where the
        address `bias` is 0, the sum goes on from what is stored there. `taps` is a table of `count` pairs (address
        of the plane one row above the first output row, address of a block of weights); `bands` times `BAND` rows
        of `vectors` times `LANES` columns are computed.
    ``convolve_to_1(...)``
        The same for output c = 0 alone (`LINEAR` or `SIGMOID`); blocks of weights keep their four columns.
    ``correlate_with_4(taps, pairs, gradient, channel, pitch, height, vectors)``
        ``sums_t[dx, c] += gradient_c[y, x] * plane_t[y, x + dx - 1]`` summed over all y, and over x lane by lane.
        `taps` is a table of 2 * `pairs` pairs (address of the first row of the plane, address of the sums, 12
        vectors [dx][c]); an odd number of taps is filled up with one whose sums nobody reads.

    Oracle: ``torch.nn.functional.conv3d`` and its gradients in float64.
    """
    nine, seven = types.void(*[types.int64] * 9), types.void(*[types.int64] * 7)
    return (
        compile_c(nine, convolve_to_4),
        compile_c(nine, convolve_to_1),
        compile_c(seven, correlate_with_4),
    )
