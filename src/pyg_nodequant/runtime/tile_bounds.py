r"""Upper bounds of scores, a tile of rows at a time, as numba calls them."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir as llvm_ir
from numba import types as numba_types
from numba.extending import intrinsic, overload

from pyg_nodequant.runtime.vector_code import (
    emit_tile_bounds,
    find_shuffle,
    widen_halves,
)

Array = np.ndarray[Any, Any]

# These have no types of their own.
ir: Any = llvm_ir
types: Any = numba_types

_BLOCK = 64  # rows, see blocks.py


@intrinsic
def _vector_bounds(typingctx: Any, codes: Any, start: Any, blocks: Any,
                 size: Any, tables: Any, first: Any, planes: Any, scale: Any,
                 offset: Any, terms: Any, limit: Any, out: Any,
                 passed: Any) -> Any:
    feature = find_shuffle()
    if feature is None:
        return None
    intp, single = types.intp, types.float32
    signature = types.int64(codes, intp, intp, intp, tables, intp, intp,
                            scale, offset, types.UniTuple(single, 5), single,
                            out, passed)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        def array(which: int) -> Any:
            return context.make_array(sig.args[which])(context, builder,
                                                       args[which])

        has_offset = builder.icmp_signed(
            "!=", array(8).nitems, ir.Constant(args[1].type, 0))
        return emit_tile_bounds(
            builder, feature, builder.gep(array(0).data, [args[1]]), args[2],
            args[3], builder.gep(array(4).data, [args[5]]), args[6],
            array(7).data, array(8).data, has_offset,
            tuple(builder.extract_value(args[9], i) for i in range(5)),
            args[10], array(11).data, array(12).data)

    return signature, codegen


# Called without the typing context, which numba fills in.
vector_bounds: Any = _vector_bounds

Terms = tuple[float, float, float, float, float]


def tile_bounds(codes: Array, start: int, blocks: int, size: int,
                tables: Array, first: int, planes: int, scale: Array,
                offset: Array, terms: Terms, limit: float, out: Array,
                passed: Array) -> int:
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
        scale (array): Scales :math:`r`, :obj:`float32` or the bits of halves.
        offset (array): Offsets :math:`o`, or none.
        terms (tuple): :math:`c, \delta, \eta, t, \epsilon`.
        limit (float): The bound that is to be reached.
        out (array): The bounds, :obj:`float32`; those of blocks of which no
            row reaches the limit may be left out.
        passed (array): A bit for each row: whether it reaches the limit;
            :obj:`uint64` for each block.

    Returns:
        A bit for each block: whether one of its rows does.
    """
    constant, delta, margin, turn, slack = terms
    result = 0
    for block in range(blocks):
        found = np.uint64(0)
        for j in range(_BLOCK):
            total = 0
            for plane in range(planes):
                for b in range(size):
                    code = int(codes[start + (block * size + b) * _BLOCK + j])
                    at = first + 32 * (plane * size + b)
                    total += (int(tables[at + (code & 15)]) +
                              int(tables[at + 16 + (code >> 4)])) << 8 * plane
            i = block * _BLOCK + j
            r = as_float32(scale[i])
            bound = (r * (constant + delta * np.float32(total)) +
                     abs(r) * margin)
            if len(offset) > 0:
                bound += offset[i] * turn + abs(offset[i]) * slack
            out[i] = bound
            found |= np.uint64(bound >= limit) << np.uint64(j)
        passed[block] = found
        result |= int(found != 0) << block
    return result


@overload(tile_bounds, strict=False)
def _tile_bounds_compiled(codes: Any, start: Any, blocks: Any, size: Any,
                          tables: Any, first: Any, planes: Any, scale: Any,
                          offset: Any, terms: Any, limit: Any, out: Any,
                          passed: Any) -> Any:
    if find_shuffle() is None:
        return tile_bounds

    def compiled(codes: Any, start: Any, blocks: Any, size: Any, tables: Any,
                 first: Any, planes: Any, scale: Any, offset: Any, terms: Any,
                 limit: Any, out: Any, passed: Any) -> Any:
        return vector_bounds(codes, start, blocks, size, tables, first,
                             planes, scale, offset, terms, limit, out, passed)

    return compiled


@intrinsic
def _from_half(typingctx: Any, bits: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return widen_halves(builder, args[0])

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


@intrinsic
def _count_zeros(typingctx: Any, bits: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), codegen


count_zeros: Any = _count_zeros


def lowest_bit(bits: Any) -> int:
    r"""Returns the number of the lowest bit of :obj:`bits`, an unsigned
    integer of 64 bits that is not 0.

    Example:
        >>> lowest_bit(np.uint64(40))
        3
    """
    return (int(bits) & -int(bits)).bit_length() - 1


@overload(lowest_bit, strict=False)
def _lowest_bit_compiled(bits: Any) -> Any:
    return lambda bits: count_zeros(bits)
