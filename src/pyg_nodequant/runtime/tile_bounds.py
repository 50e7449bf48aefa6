r"""Upper bounds of scores, a tile of rows at a time, as numba calls them."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
from llvmlite import ir as llvm_ir
from numba import types as numba_types
from numba.extending import intrinsic, overload

from pyg_nodequant.runtime.vector_code import (
    cpu_features,
    emit_tile_bounds,
    find_shuffle,
)

Array = np.ndarray[Any, Any]

# These have no types of their own.
ir: Any = llvm_ir
types: Any = numba_types

_BLOCK = 64  # rows, see blocks.py
_I32, _FLOAT = ir.IntType(32), ir.FloatType()


@intrinsic
def _vector_bounds(typingctx: Any, codes: Any, start: Any, blocks: Any,
                 size: Any, tables: Any, first: Any, planes: Any, scale: Any,
                 offset: Any, row: Any, terms: Any, limit: Any,
                 out: Any) -> Any:
    feature = find_shuffle()
    if feature is None:
        return None
    intp, single = types.intp, types.float32
    signature = types.int64(codes, intp, intp, intp, tables, intp, intp,
                            scale, offset, intp,
                            types.UniTuple(single, 5), single, out)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        def array(which: int) -> Any:
            return context.make_array(sig.args[which])(context, builder,
                                                       args[which])

        row = args[9]
        has_offset = builder.icmp_signed(
            "!=", array(8).nitems, ir.Constant(row.type, 0))
        return emit_tile_bounds(
            builder, feature, builder.gep(array(0).data, [args[1]]), args[2],
            args[3], builder.gep(array(4).data, [args[5]]), args[6],
            builder.gep(array(7).data, [row]),
            builder.gep(array(8).data, [row]), has_offset,
            tuple(builder.extract_value(args[10], i) for i in range(5)),
            args[11], builder.gep(array(12).data, [row]))

    return signature, codegen


# Called without the typing context, which numba fills in.
vector_bounds: Any = _vector_bounds

Terms = tuple[float, float, float, float, float]


def tile_bounds(codes: Array, start: int, blocks: int, size: int,
                tables: Array, first: int, planes: int, scale: Array,
                offset: Array, row: int, terms: Terms, limit: float,
                out: Array) -> int:
    r"""Forms upper bounds of the scores of some blocks of 64 rows,

    .. math::
        u_i = r_i (c + \delta \sum_b T_b[\textrm{half bytes of byte } b])
        + |r_i| \eta + o_i t + |o_i| \epsilon.

    Args:
        codes (array): The codes of a table, :obj:`uint8`.
        start (int): Where the bytes of the first block begin.
        blocks (int): The number of blocks, at most 63.
        size (int): The bytes of a row.
        tables (array): The entries of a plan, :obj:`uint8`.
        first (int): Where those of a row's first byte begin.
        planes (int): The bytes of an entry, 1 or 2.
        scale (array): Scales :math:`r`, :obj:`float32`.
        offset (array): Offsets :math:`o`, or none.
        row (int): Where the first row's scale, offset and bound are.
        terms (tuple): :math:`c, \delta, \eta, t, \epsilon`.
        limit (float): The bound that is to be reached.
        out (array): The bounds, :obj:`float32`.

    Returns:
        A bit for each block: whether one of its rows reaches the limit.
    """
    constant, delta, margin, turn, slack = terms
    result = 0
    for block in range(blocks):
        found = False
        for j in range(_BLOCK):
            total = 0
            for plane in range(planes):
                for b in range(size):
                    code = int(codes[start + (block * size + b) * _BLOCK + j])
                    at = first + 32 * (plane * size + b)
                    total += (int(tables[at + (code & 15)]) +
                              int(tables[at + 16 + (code >> 4)])) << 8 * plane
            i = row + block * _BLOCK + j
            bound = (scale[i] * (constant + delta * np.float32(total)) +
                     abs(scale[i]) * margin)
            if len(offset) > 0:
                bound += offset[i] * turn + abs(offset[i]) * slack
            out[i] = bound
            found |= bound >= limit
        result |= int(found) << block
    return result


@overload(tile_bounds, strict=False)
def _tile_bounds_compiled(codes: Any, start: Any, blocks: Any, size: Any,
                          tables: Any, first: Any, planes: Any, scale: Any,
                          offset: Any, row: Any, terms: Any, limit: Any,
                          out: Any) -> Any:
    if find_shuffle() is None:
        return tile_bounds

    def compiled(codes: Any, start: Any, blocks: Any, size: Any, tables: Any,
                 first: Any, planes: Any, scale: Any, offset: Any, row: Any,
                 terms: Any, limit: Any, out: Any) -> Any:
        return vector_bounds(codes, start, blocks, size, tables, first,
                             planes, scale, offset, row, terms, limit, out)

    return compiled


@intrinsic
def _from_half(typingctx: Any, bits: Any) -> Any:
    native = bool(cpu_features() & {"f16c", "avx512f", "fullfp16"})
    native = native or platform.machine().lower() in ("arm64", "aarch64")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if native:
            half = builder.bitcast(args[0], ir.HalfType())
            return builder.fpext(half, _FLOAT)
        # Exponent and fraction in place, then the exponent's bias put right.
        wide = builder.zext(args[0], _I32)
        size = builder.and_(wide, ir.Constant(_I32, 0x7FFF))
        size = builder.bitcast(builder.shl(size, ir.Constant(_I32, 13)),
                               _FLOAT)
        size = builder.fmul(size, ir.Constant(_FLOAT, 2.0**112))
        sign = builder.and_(wide, ir.Constant(_I32, 0x8000))
        sign = builder.shl(sign, ir.Constant(_I32, 16))
        return builder.bitcast(
            builder.or_(builder.bitcast(size, _I32), sign), _FLOAT)

    return types.float32(types.uint16), codegen


from_half: Any = _from_half


def as_float32(stored: Any) -> Any:
    r"""Returns a stored scale as :obj:`float32`: the bits of a half as an
    unsigned integer, or a :obj:`float32` itself.

    Example:
        >>> float(as_float32(np.float16(1.5).view(np.uint16)))
        1.5
    """
    if isinstance(stored, np.uint16):
        return np.float32(stored.view(np.float16))
    return np.float32(stored)


@overload(as_float32, strict=False)
def _as_float32_compiled(stored: Any) -> Any:
    if stored == types.uint16:
        return lambda stored: from_half(stored)
    return lambda stored: np.float32(stored)
