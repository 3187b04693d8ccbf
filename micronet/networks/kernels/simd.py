"""Vectors of `LANES` float32 in LLVM: the few operations that the micro-kernels are built from.

A micro-kernel is written as Python that emits LLVM instructions, once, when it is compiled: Python's loops unroll,
`Simd.loop` makes a loop of the machine. LLVM keeps the values in vector registers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils as _untyped
from numba.extending import intrinsic

from micronet.networks.kernels.jit import LANES

__all__ = ["FLOAT_BYTES", "SELU_ALPHA", "SELU_SCALE", "Simd", "call_c"]

FLOAT_BYTES = 4
# Klambauer et al. 2017: selu(x) = scale * (x if x > 0 else alpha * (exp(x) - 1))
SELU_SCALE = 1.0507009873554804934193349852946
SELU_ALPHA = 1.6732632423543772848170429916717

# (2**r - 1) / r for |r| <= 1/2, lowest power first, each a float32: least largest relative error (2e-8), where r is x
# times the float32 nearest to 1 / ln 2, whose own error is made up for
_EXP2_MINUS_1 = (
    0.6931471824645996,
    0.24022650718688965,
    0.05550384894013405,
    0.009618249721825123,
    0.0013381503522396088,
    0.000153919099830091,
)

cgutils: Any = _untyped
_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_VECTOR, _INT_VECTOR = ir.VectorType(_F32, LANES), ir.VectorType(_I32, LANES)

Value = Any  # an LLVM value


class Simd:
    """Emits vector instructions into `builder`; addresses are int64 values that count bytes."""

    def __init__(self, builder: Any) -> None:
        self.b = builder

    # integers and addresses

    def integer(self, value: int) -> Value:
        """Return an int64 constant."""
        return ir.Constant(_I64, value)

    def plus(self, address: Value, offset: Value | int) -> Value:
        """Return `address` moved by `offset` bytes."""
        return self.b.add(address, self.integer(offset) if isinstance(offset, int) else offset)

    def times(self, left: Value, right: Value | int) -> Value:
        """Return a product of int64 values."""
        return self.b.mul(left, self.integer(right) if isinstance(right, int) else right)

    def load_integer(self, address: Value) -> Value:
        """Return the int64 at `address`."""
        return self.b.load(self.b.inttoptr(address, _I64.as_pointer()))

    @contextmanager
    def loop(self, count: Value) -> Iterator[Value]:
        """Emit the body once, in a machine loop over 0 .. count - 1."""
        with cgutils.for_range(self.b, count) as each:
            yield each.index

    def when(self, condition: Value) -> Any:
        """Emit the body so that it runs only where the int64 `condition` is not 0."""
        return self.b.if_then(self.b.icmp_signed("!=", condition, self.integer(0)))

    # vectors

    def variable(self) -> Value:
        """Return room for one vector; LLVM turns it into a register."""
        return cgutils.alloca_once(self.b, _VECTOR)

    def constant(self, value: float) -> Value:
        """Return `value` in every lane."""
        return ir.Constant(_VECTOR, [value] * LANES)

    def load(self, address: Value) -> Value:
        """Return the vector at `address`, aligned or not."""
        return self.b.load(self.b.inttoptr(address, _VECTOR.as_pointer()), align=FLOAT_BYTES)

    def store(self, vector: Value, address: Value) -> None:
        """Write a vector to `address`, aligned or not."""
        self.b.store(vector, self.b.inttoptr(address, _VECTOR.as_pointer()), align=FLOAT_BYTES)

    def broadcast(self, address: Value) -> Value:
        """Return the one float at `address` in every lane."""
        value = self.b.load(self.b.inttoptr(address, _F32.as_pointer()), align=FLOAT_BYTES)
        undefined = ir.Constant(_VECTOR, ir.Undefined)
        first = self.b.insert_element(undefined, value, ir.Constant(_I32, 0))
        return self.b.shuffle_vector(first, undefined, ir.Constant(_INT_VECTOR, [0] * LANES))

    def prefetch(self, address: Value) -> None:
        """Ask for the cache line at `address`, any address at all, to be read into the first cache."""
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(self.b.module, kind, "llvm.prefetch.p0")
        read, keep, data = (ir.Constant(_I32, value) for value in (0, 3, 1))
        self.b.call(function, [self.b.inttoptr(address, cgutils.voidptr_t), read, keep, data])

    def _intrinsic(self, name: str, *vectors: Value) -> Value:
        kind = ir.FunctionType(_VECTOR, [_VECTOR] * len(vectors))
        function = cgutils.get_or_insert_function(self.b.module, kind, f"llvm.{name}.v{LANES}f32")
        return self.b.call(function, list(vectors))

    def multiply_add(self, left: Value, right: Value, addend: Value) -> Value:
        """Return left * right + addend, rounded once."""
        return self._intrinsic("fma", left, right, addend)

    def exp(self, x: Value) -> Value:
        """Return exp(x) within 2 units in the last place for x in [-87, 87], the end values beyond, NaN for NaN.

        exp(x) = 2**n * exp(r), n = round(x / ln 2), |r| <= ln(2) / 2; exp(r) is Cephes' polynomial (expf).
        """
        b = self.b
        low, high = self.constant(-87.0), self.constant(87.0)
        x = b.select(b.fcmp_ordered("<", x, low), low, x)
        x = b.select(b.fcmp_ordered(">", x, high), high, x)
        n = self._intrinsic("rint", b.fmul(x, self.constant(1.4426950408889634)))
        r = self.multiply_add(n, self.constant(-0.693359375), x)
        r = self.multiply_add(n, self.constant(2.12194440e-4), r)
        p = self.constant(1.9875691500e-4)
        for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
            p = self.multiply_add(p, r, self.constant(c))
        p = b.fadd(self.multiply_add(p, b.fmul(r, r), r), self.constant(1.0))
        exponent = b.add(b.fptosi(n, _INT_VECTOR), ir.Constant(_INT_VECTOR, [127] * LANES))
        power = b.bitcast(b.shl(exponent, ir.Constant(_INT_VECTOR, [23] * LANES)), _VECTOR)
        return b.fmul(p, power)

    def selu(self, x: Value) -> Value:
        """Return scale * (x if x > 0 else alpha * (exp(x) - 1)) within 4 units in the last place, NaN for NaN.

        exp(x) - 1 = 2**n * (2**r - 1) + (2**n - 1), n = round(x / ln 2), |r| <= 1/2; 2**r - 1 is r times a polynomial:
        near 0, where n is 0, all digits are kept. Adding 1.5 * 2**23 rounds to a whole number and leaves it in the low
        bits.
        """
        b = self.b
        zero, low = self.constant(0.0), self.constant(-80.0)
        negative = b.select(b.fcmp_ordered("<", x, zero), x, zero)
        negative = b.select(b.fcmp_ordered(">", negative, low), negative, low)
        positive = b.select(b.fcmp_ordered("<", x, zero), zero, x)
        per_ln2, whole = self.constant(1.4426950408889634), self.constant(1.5 * 2**23)
        n = self.multiply_add(negative, per_ln2, whole)
        r = self.multiply_add(negative, per_ln2, b.fneg(b.fsub(n, whole)))
        p = self.constant(_EXP2_MINUS_1[-1])
        for c in _EXP2_MINUS_1[-2::-1]:
            p = self.multiply_add(p, r, self.constant(c))
        shift = ir.Constant(_INT_VECTOR, [23] * LANES)
        floor = self.constant(SELU_SCALE * SELU_ALPHA)
        height = b.bitcast(b.add(b.bitcast(floor, _INT_VECTOR), b.shl(b.bitcast(n, _INT_VECTOR), shift)), _VECTOR)
        curve = self.multiply_add(height, b.fmul(p, r), b.fsub(height, floor))
        return self.multiply_add(positive, self.constant(SELU_SCALE), curve)

    def sigmoid(self, x: Value) -> Value:
        """Return 1 / (1 + exp(-x)), at least 1.6e-38: subnormal numbers would slow down all that reads them."""
        one = self.constant(1.0)
        return self.b.fdiv(one, self.b.fadd(one, self.exp(self.b.fneg(x))))


def _call_c(typing: Any, address: Any, arguments: Any) -> Any:
    """Call the C function at `address` with a tuple of int64 as its arguments; it returns nothing."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [_I64] * len(signature.args[1]))
        function = builder.inttoptr(values[0], kind.as_pointer())
        builder.call(function, cgutils.unpack_tuple(builder, values[1]))
        return context.get_dummy_value()

    return types.void(address, arguments), generate


#: ``call_c(address, arguments)`` in a kernel calls the C function at `address` with a tuple of int64.
call_c: Callable[[int, tuple[int, ...]], None] = intrinsic(_call_c)  # type: ignore[assignment]
