"""Vectors of float32 for code that numba compiles: every lane is one frame, and each is rounded as if it were alone.

numba's own vectoriser gives up where arrays might overlap, and treats the ends of a loop in another way than its
middle. With vectors as values neither can happen: `a + b` is one instruction, the same for all lanes. The number of
lanes follows the processor and changes no bit of a result.
"""

import operator

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model
from numba.np.arrayobj import make_array

LANES = 16 if get_host_cpu_features().get("avx512f") else 8
_FLOATS, _INTS = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(ir.IntType(32), LANES)


class Vector(types.Type):
    """numba's name for LANES float32 numbers."""


vector = Vector(name=f"float32x{LANES}")


@register_model(Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _FLOATS)


for _operator, _instruction in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    _cases = {"key": _operator, "cases": [signature(vector, vector, vector)]}
    infer_global(_operator)(type(_instruction, (ConcreteTemplate,), _cases))
    lower_builtin(_operator, vector, vector)(
        lambda context, builder, sig, args, name=_instruction: getattr(builder, name)(*args)
    )


def _floats(value: float) -> ir.Constant:
    return ir.Constant(_FLOATS, [float(np.float32(value))] * LANES)


def _ints(values) -> ir.Constant:
    return ir.Constant(_INTS, [values] * LANES if isinstance(values, int) else values)


def _called(builder, name: str, *args):
    """One of LLVM's functions of vectors."""
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * len(args))
    return builder.call(get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32"), args)


def _pointer(context, builder, kind, array, index):
    data = make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _FLOATS.as_pointer())


@intrinsic
def load(typingctx, array, index):
    """array[index : index + LANES]."""

    def codegen(context, builder, sig, args):
        return builder.load(_pointer(context, builder, sig.args[0], *args), align=4)

    return vector(array, types.intp), codegen


@intrinsic
def store(typingctx, array, index, value):
    """array[index : index + LANES] = value."""

    def codegen(context, builder, sig, args):
        builder.store(args[2], _pointer(context, builder, sig.args[0], *args[:2]), align=4)
        return context.get_dummy_value()

    return types.none(array, types.intp, vector), codegen


@intrinsic
def splat(typingctx, number):
    """A float32 in every lane."""

    def codegen(context, builder, sig, args):
        first = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), args[0], ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(first, first, _ints(0))

    return vector(types.float32), codegen


@intrinsic
def fma(typingctx, a, b, c):
    """a * b + c, rounded once where the processor can."""

    def codegen(context, builder, sig, args):
        return _called(builder, "fmuladd", *args)

    return vector(vector, vector, vector), codegen


@intrinsic
def sqrt(typingctx, x):
    def codegen(context, builder, sig, args):
        return _called(builder, "sqrt", *args)

    return vector(vector), codegen


@intrinsic
def maximum(typingctx, x, floor):
    """The larger; what is not a number stays so."""

    def codegen(context, builder, sig, args):
        return builder.select(builder.fcmp_unordered(">", *args), *args)

    return vector(vector, vector), codegen


@intrinsic
def log(typingctx, x):
    """Natural logarithm of normal positive numbers, to about an ulp; infinity and NaN stay as they are.

    x = 2^e m with m from sqrt(1/2) to sqrt(2); log m by the polynomial of Cephes' logf (Moshier 1992), ln 2 in two
    parts.
    """

    def codegen(context, builder, sig, args):
        (x,), f, b = args, _floats, builder
        bits = b.bitcast(x, _INTS)
        exponent = b.ashr(b.sub(bits, _ints(0x3F3504F3)), _ints(23))  # the bits of sqrt(1/2) taken off
        m = b.fsub(b.bitcast(b.sub(bits, b.shl(exponent, _ints(23))), _FLOATS), f(1))
        exponent = b.sitofp(exponent, _FLOATS)
        y = f(7.0376836292e-2)
        for coefficient in (-1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
                            2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1):  # fmt: skip
            y = _called(b, "fmuladd", y, m, f(coefficient))
        square = b.fmul(m, m)
        y = _called(b, "fmuladd", exponent, f(-2.12194440e-4), b.fmul(b.fmul(y, m), square))
        y = _called(b, "fmuladd", square, f(-0.5), y)
        y = _called(b, "fmuladd", exponent, f(0.693359375), b.fadd(m, y))
        return b.select(b.fcmp_ordered("<", x, f(np.inf)), y, x)

    return vector(vector), codegen


@intrinsic
def transpose(typingctx, x, start, step, y, to, stride):
    """y[to + stride * j + i] = x[start + step * i + j], for i and j from 0 to LANES - 1."""

    def codegen(context, builder, sig, args):
        x, start, step, y, to, stride = args

        def row(kind, array, first, distance, i):
            at = builder.add(first, builder.mul(distance, ir.Constant(distance.type, i)))
            return _pointer(context, builder, kind, array, at)

        rows = [builder.load(row(sig.args[0], x, start, step, i), align=4) for i in range(LANES)]
        half = LANES // 2
        low = _ints([k + side for k in range(half) for side in (0, LANES)])
        high = _ints([k + side for k in range(half, LANES) for side in (0, LANES)])
        for _ in range(LANES.bit_length() - 1):  # each interleaves the first half of the rows with the second
            pairs = zip(rows[:half], rows[half:], strict=True)
            rows = [builder.shuffle_vector(a, b, order) for a, b in pairs for order in (low, high)]
        for i, value in enumerate(rows):
            builder.store(value, row(sig.args[3], y, to, stride, i), align=4)
        return context.get_dummy_value()

    return types.none(x, types.intp, types.intp, y, types.intp, types.intp), codegen
