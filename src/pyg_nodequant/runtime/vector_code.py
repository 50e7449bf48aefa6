r"""The code that looks tables up in vector registers, for each processor.

A byte shuffle (``pshufb`` on x86, ``tbl`` on ARM) looks up 16 to 64 four-bit
codes at once in a table that lies in a register. This is how product
quantizers are scanned fastest (André, Kermarrec, Le Scouarnec, "Cache locality
is not enough", VLDB 2015); here the two halves of every byte of a row's bit
string index tables of the query's weights, whatever widths made up the byte.

Numba does not find these instructions by itself, so the loop over the bytes of
one block of 64 rows is written in LLVM's language. Where the processor has no
such instruction the same sums are formed one number at a time.
"""

from __future__ import annotations

import platform
from typing import Any, Optional

import numba
import numpy as np
from llvmlite import binding
from llvmlite import ir as llvm_ir
from numba.core import cgutils as numba_cgutils

Array = np.ndarray[Any, Any]

# These have no types of their own.
cgutils: Any = numba_cgutils
ir: Any = llvm_ir

_I8, _I16, _I32 = ir.IntType(8), ir.IntType(16), ir.IntType(32)
_FLOAT = ir.FloatType()
_BLOCK = 64  # rows, see blocks.py
# Bytes of which 16-bit sums of two entries each cannot overflow.
_CHUNK = 128
# How far ahead memory is asked for, in bytes: the processor itself does not
# look beyond a page.
_AHEAD = 4096

#: The byte shuffle of each feature, with the lanes it looks up at once.
_SHUFFLES = {
    "avx512bw": ("llvm.x86.avx512.pshuf.b.512", 64),
    "avx2": ("llvm.x86.avx2.pshuf.b", 32),
    "ssse3": ("llvm.x86.ssse3.pshuf.b.128", 16),
    "neon": ("llvm.aarch64.neon.tbl1.v16i8", 16),
}


def cpu_features() -> set[str]:
    r"""Returns the processor's features that kernels are compiled for, as
    LLVM names them; :obj:`NUMBA_CPU_NAME` and :obj:`NUMBA_CPU_FEATURES` have
    the last word, as in numba.
    """
    settings: Any = numba.config
    if settings.CPU_FEATURES is not None:
        text = str(settings.CPU_FEATURES)
        return {part[1:] for part in text.split(",") if part[:1] == "+"}
    if settings.CPU_NAME == "generic":
        return set()
    try:
        host = binding.get_host_cpu_features()
    except RuntimeError:  # LLVM does not know this processor
        return set()
    return {name for name, there in host.items() if there}


def find_shuffle() -> Optional[str]:
    r"""Returns the feature whose shuffle kernels use, if there is one."""
    machine = platform.machine().lower()
    features = cpu_features()
    if machine in ("arm64", "aarch64"):
        return "neon"
    for name in ("avx512bw", "avx2", "ssse3"):
        if name in features:
            return name
    return None


class _Emitter:
    # Writes the code of `tile_bounds`; one object for one place of code.

    def __init__(self, builder: Any, feature: str, index: Any) -> None:
        name, self.lanes = _SHUFFLES[feature]
        self.builder, self.index = builder, index
        self.half = self.lanes // 2
        self.parts = range(_BLOCK // self.lanes)
        self.bytes = ir.VectorType(_I8, self.lanes)
        self.words = ir.VectorType(_I16, self.half)
        self.ints = ir.VectorType(_I32, self.lanes)
        self.floats = ir.VectorType(_FLOAT, self.lanes)
        self.shuffle = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(self.bytes, [self.bytes, self.bytes]), name)

    def number(self, value: int) -> Any:
        return ir.Constant(self.index, value)

    def spread(self, value: Any) -> Any:
        # The same number in all lanes.
        undefined = ir.Constant(self.floats, ir.Undefined)
        first = self.builder.insert_element(undefined, value,
                                            ir.Constant(_I32, 0))
        return self.builder.shuffle_vector(first, undefined,
                                           ir.Constant(self.ints, None))

    def load(self, pointer: Any, at: Any, type_: Any) -> Any:
        place = self.builder.gep(pointer, [at])
        place = self.builder.bitcast(place, type_.as_pointer())
        return self.builder.load(place, align=1)

    def add_to(self, place: Any, value: Any) -> None:
        before = self.builder.load(place)
        self.builder.store(self.builder.add(before, value), place)

    def prefetch(self, pointer: Any) -> None:
        # Asks for a line of the cache; one beyond the array does no harm.
        byte = _I8.as_pointer()
        fetch = self.builder.module.declare_intrinsic(
            "llvm.prefetch", (byte, ),
            ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32]))
        read, keep, data = (ir.Constant(_I32, value) for value in (0, 3, 1))
        self.builder.call(fetch, [pointer, read, keep, data])

    def variables(self, type_: Any) -> list[Any]:
        return [cgutils.alloca_once(self.builder, type_) for _ in self.parts]

    def clear(self, places: Any, type_: Any) -> None:
        for place in places:
            self.builder.store(ir.Constant(type_, None), place)

    def entries(self, tables: Any, at: Any) -> Any:
        sixteen = ir.VectorType(_I8, 16)
        found = self.load(tables, at, sixteen)
        if self.lanes == 16:
            return found
        # The same table in each lane of 128 bits.
        return self.builder.shuffle_vector(
            found, ir.Constant(sixteen, ir.Undefined),
            ir.Constant(self.ints, [i % 16 for i in range(self.lanes)]))

    def sums(self, block: Any, tables: Any, size: Any) -> list[Any]:
        # The sums of `size` bytes a row, as 16-bit numbers in row order. Two
        # sums a part: of all entries as they lie, where an odd row's entry is
        # the high byte of a word, and of the odd rows' alone.
        builder = self.builder
        both, odd = self.variables(self.words), self.variables(self.words)
        self.clear((*both, *odd), self.words)
        low_bits = ir.Constant(self.bytes, [15] * self.lanes)
        four = ir.Constant(self.words, [4] * self.half)
        eight = ir.Constant(self.words, [8] * self.half)
        with cgutils.for_range(builder, size, intp=self.index) as loop:
            at = builder.mul(loop.index, self.number(32))
            halves = (self.entries(tables, at),
                      self.entries(tables, builder.add(at, self.number(16))))
            row = builder.mul(loop.index, self.number(_BLOCK))
            self.prefetch(builder.gep(block, [builder.add(
                row, self.number(_AHEAD))]))
            for part in self.parts:
                place = builder.add(row, self.number(part * self.lanes))
                x = self.load(block, place, self.bytes)
                high = builder.lshr(builder.bitcast(x, self.words), four)
                codes = (x, builder.bitcast(high, self.bytes))
                for table, code in zip(halves, codes, strict=True):
                    found = builder.call(
                        self.shuffle, [table, builder.and_(code, low_bits)])
                    found = builder.bitcast(found, self.words)
                    self.add_to(both[part], found)
                    self.add_to(odd[part], builder.lshr(found, eight))
        mixed = ir.Constant(self.ints, [
            lane for i in range(self.half) for lane in (i, self.half + i)])
        out = []
        for part in self.parts:
            high = builder.load(odd[part])
            low = builder.sub(builder.load(both[part]),
                              builder.shl(high, eight))
            out.append(builder.shuffle_vector(low, high, mixed))
        return out

    def wide_sums(self, block: Any, tables: Any, size: Any,
                  planes: Any) -> list[Any]:
        # The sums of all bytes, and of both bytes of entries that have two.
        builder = self.builder
        total = self.variables(self.ints)
        self.clear(total, self.ints)
        step = self.number(_CHUNK)
        with cgutils.for_range(builder, planes, intp=self.index) as plane:
            shift = builder.trunc(builder.mul(plane.index, self.number(8)),
                                  _I32)
            shifts = builder.shuffle_vector(
                builder.insert_element(ir.Constant(self.ints, ir.Undefined),
                                       shift, ir.Constant(_I32, 0)),
                ir.Constant(self.ints, ir.Undefined),
                ir.Constant(self.ints, None))
            first = builder.mul(builder.mul(plane.index, size),
                                self.number(32))
            with cgutils.for_range_slice(builder, self.number(0), size, step,
                                         self.index) as (begin, _):
                left = builder.sub(size, begin)
                now = builder.select(builder.icmp_signed("<", left, step),
                                     left, step)
                at = builder.add(first, builder.mul(begin, self.number(32)))
                sums = self.sums(
                    builder.gep(block, [builder.mul(begin,
                                                    self.number(_BLOCK))]),
                    builder.gep(tables, [at]), now)
                for place, part in zip(total, sums, strict=True):
                    self.add_to(place, builder.shl(
                        builder.zext(part, self.ints), shifts))
        return [builder.load(place) for place in total]

    def bounds(self, sums: list[Any], scale: Any, offset: Any,
               has_offset: Any, terms: tuple[Any, ...], limit: Any,
               out: Any) -> Any:
        # Stores the upper bounds of a block; whether one reaches the limit.
        builder, fast = self.builder, ("contract", )
        constant, delta, margin, turn, slack = map(self.spread, terms)
        least = self.spread(limit)
        size = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(self.floats, [self.floats]),
            f"llvm.fabs.v{self.lanes}f32")
        passed = ir.Constant(ir.IntType(self.lanes), 0)
        for part, total in zip(self.parts, sums, strict=True):
            at = self.number(part * self.lanes)
            r = self.load(scale, at, self.floats)
            value = builder.fmul(builder.uitofp(total, self.floats), delta,
                                 flags=fast)
            value = builder.fmul(builder.fadd(value, constant, flags=fast), r,
                                 flags=fast)
            wide = builder.fmul(builder.call(size, [r]), margin, flags=fast)
            bound = cgutils.alloca_once_value(
                builder, builder.fadd(value, wide, flags=fast))
            with builder.if_then(has_offset):
                o = self.load(offset, at, self.floats)
                more = builder.fadd(
                    builder.fmul(o, turn, flags=fast),
                    builder.fmul(builder.call(size, [o]), slack, flags=fast),
                    flags=fast)
                builder.store(builder.fadd(builder.load(bound), more), bound)
            value = builder.load(bound)
            place = builder.bitcast(builder.gep(out, [at]),
                                    self.floats.as_pointer())
            builder.store(value, place, align=4)
            reached = builder.fcmp_ordered(">=", value, least)
            passed = builder.or_(
                passed, builder.bitcast(reached, passed.type))
        return builder.icmp_unsigned("!=", passed,
                                     ir.Constant(passed.type, 0))


def emit_tile_bounds(builder: Any, feature: str, codes: Any, blocks: Any,
                     size: Any, tables: Any, planes: Any, scale: Any,
                     offset: Any, has_offset: Any, terms: tuple[Any, ...],
                     limit: Any, out: Any) -> Any:
    r"""Writes the code of :func:`tile_bounds` and returns its result; all
    arguments but the first two are values, the arrays pointers.
    """
    emit = _Emitter(builder, feature, size.type)
    result = cgutils.alloca_once_value(builder, emit.number(0))
    simple = builder.and_(
        builder.icmp_signed("==", planes, emit.number(1)),
        builder.icmp_signed("<=", size, emit.number(_CHUNK)))
    length = builder.mul(size, emit.number(_BLOCK))
    with cgutils.for_range(builder, blocks, intp=size.type) as loop:
        row = builder.mul(loop.index, emit.number(_BLOCK))
        block = builder.gep(codes, [builder.mul(loop.index, length)])
        totals = emit.variables(emit.ints)
        with builder.if_else(simple) as (then, otherwise):
            with then:  # one look: its sums stay in registers
                for place, sums in zip(totals, emit.sums(block, tables, size),
                                       strict=True):
                    builder.store(builder.zext(sums, emit.ints), place)
            with otherwise:
                for place, sums in zip(
                        totals, emit.wide_sums(block, tables, size, planes),
                        strict=True):
                    builder.store(sums, place)
        found = emit.bounds(
            [builder.load(place) for place in totals],
            builder.gep(scale, [row]), builder.gep(offset, [row]), has_offset,
            terms, limit, builder.gep(out, [row]))
        bit = builder.shl(builder.zext(found, size.type), loop.index)
        builder.store(builder.or_(builder.load(result), bit), result)
    return builder.load(result)


def assembly(feature: str) -> str:
    r"""Returns the machine code of :func:`emit_tile_bounds` for a processor
    with a feature, whatever processor this is.

    Example:
        >>> "vpshufb" in assembly("avx2")
        True
    """
    module = ir.Module("tile_bounds")
    index, byte, single = ir.IntType(64), _I8.as_pointer(), _FLOAT
    floats = single.as_pointer()
    arguments = [byte, index, index, byte, index, floats, floats,
                 *[single] * 6, floats]
    function = ir.Function(module, ir.FunctionType(index, arguments),
                           "tile_bounds")
    builder = ir.IRBuilder(function.append_basic_block())
    (codes, blocks, size, tables, planes, scale, offset, *terms, limit,
     out) = function.args
    builder.ret(emit_tile_bounds(
        builder, feature, codes, blocks, size, tables, planes, scale, offset,
        ir.Constant(ir.IntType(1), 1), tuple(terms), limit, out))
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    is_arm = feature == "neon"
    target = binding.Target.from_triple(
        "aarch64-unknown-linux-gnu" if is_arm else "x86_64-unknown-linux-gnu")
    machine = target.create_target_machine(features=f"+{feature}", opt=3)
    module.triple, module.data_layout = (machine.triple,
                                         str(machine.target_data))
    parsed = binding.parse_assembly(str(module))
    options: Any = binding.create_pipeline_tuning_options(speed_level=3)
    passes: Any = binding.create_pass_builder(machine, options)
    passes.getModulePassManager().run(parsed, passes)
    return str(machine.emit_assembly(parsed))
