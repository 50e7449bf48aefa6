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

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_FLOAT = ir.FloatType()
_BLOCK = 64  # rows, see blocks.py
# Bytes of which 16-bit sums of two entries each cannot overflow.
_CHUNK = 128
# How far ahead codes, and scales and offsets, are asked for, in bytes. The
# processor itself does not look beyond a page; into the second cache, since
# the first waits for too few lines at once: that halves the speed.
_AHEAD, _AHEAD_NUMBERS = 12288, 2048
_LINE = 64

#: The byte shuffle of each feature, with the lanes it looks up at once.
_SHUFFLES = {
    "avx512vbmi": ("llvm.x86.avx512.permvar.qi.512", 64),
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
    for name in ("avx512vbmi", "avx512bw", "avx2", "ssse3"):
        if name in features:
            return name
    return None


def widen_halves(builder: Any, bits: Any) -> Any:
    r"""Writes the code that turns halves, one or a vector of them as unsigned
    integers, into single precision.
    """
    native = bool(cpu_features() & {"f16c", "avx512f", "fullfp16"})
    native = native or platform.machine().lower() in ("arm64", "aarch64")

    def like(type_: Any) -> Any:
        if isinstance(bits.type, ir.VectorType):
            return ir.VectorType(type_, bits.type.count)
        return type_

    def constant(type_: Any, value: Any) -> Any:
        if isinstance(bits.type, ir.VectorType):
            return ir.Constant(like(type_), [value] * bits.type.count)
        return ir.Constant(type_, value)

    if native:
        halves = builder.bitcast(bits, like(ir.HalfType()))
        return builder.fpext(halves, like(_FLOAT))
    # Exponent and fraction in place, then the exponent's bias put right.
    wide = builder.zext(bits, like(_I32))
    size = builder.and_(wide, constant(_I32, 0x7FFF))
    size = builder.bitcast(builder.shl(size, constant(_I32, 13)),
                           like(_FLOAT))
    size = builder.fmul(size, constant(_FLOAT, 2.0**112))
    sign = builder.and_(wide, constant(_I32, 0x8000))
    sign = builder.shl(sign, constant(_I32, 16))
    return builder.bitcast(
        builder.or_(builder.bitcast(size, like(_I32)), sign), like(_FLOAT))


class _Emitter:
    # Writes the code of `tile_bounds` for some blocks at once, which share
    # what is read of the tables; one object for one place of code.

    def __init__(self, builder: Any, feature: str, index: Any,
                 blocks: int) -> None:
        name, self.lanes = _SHUFFLES[feature]
        self.builder, self.index, self.blocks = builder, index, blocks
        self.half = self.lanes // 2
        self.parts = range(blocks * _BLOCK // self.lanes)
        self.bytes = ir.VectorType(_I8, self.lanes)
        self.words = ir.VectorType(_I16, self.half)
        self.ints = ir.VectorType(_I32, self.lanes)
        self.floats = ir.VectorType(_FLOAT, self.lanes)
        self.shuffle = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(self.bytes, [self.bytes, self.bytes]), name)
        # This one reads six bits of a code: of a table that is repeated
        # four times, the upper two do not matter.
        self.masks = feature != "avx512vbmi"

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
        read, second, data = (ir.Constant(_I32, value) for value in (0, 2, 1))
        self.builder.call(fetch, [pointer, read, second, data])

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

    def fetch_numbers(self, pointer: Any, part: int) -> None:
        # The lines of a part's scales or offsets, some time before.
        width = 4 if pointer.type.pointee == _FLOAT else 2
        start = self.builder.bitcast(pointer, _I8.as_pointer())
        begin, end = (part * self.lanes * width,
                      (part + 1) * self.lanes * width)
        for at in range(-(-begin // _LINE) * _LINE, end, _LINE):
            self.prefetch(self.builder.gep(start, [self.number(
                at + _AHEAD_NUMBERS)]))

    def look_up(self, table: Any, codes: Any) -> Any:
        # The entries of the lower halves of some bytes.
        if self.masks:
            codes = self.builder.and_(
                codes, ir.Constant(self.bytes, [15] * self.lanes))
        return self.builder.call(self.shuffle, [table, codes])

    def sums(self, codes: Any, length: Any, tables: Any,
             size: Any) -> list[Any]:
        # The sums of `size` bytes a row, as 16-bit numbers in row order. Two
        # sums a part: of all entries as they lie, where an odd row's entry is
        # the high byte of a word, and of the odd rows' alone.
        builder = self.builder
        both, odd = self.variables(self.words), self.variables(self.words)
        self.clear((*both, *odd), self.words)
        four = ir.Constant(self.words, [4] * self.half)
        eight = ir.Constant(self.words, [8] * self.half)
        with cgutils.for_range(builder, size, intp=self.index) as loop:
            at = builder.mul(loop.index, self.number(32))
            low = self.entries(tables, at)
            high = self.entries(tables, builder.add(at, self.number(16)))
            column = builder.gep(codes, [builder.mul(loop.index,
                                                     self.number(_BLOCK))])
            for part in self.parts:
                block, row = divmod(part * self.lanes, _BLOCK)
                place = builder.add(builder.mul(length, self.number(block)),
                                    self.number(row))
                if not row:
                    self.prefetch(builder.gep(column, [builder.add(
                        place, self.number(_AHEAD))]))
                x = self.load(column, place, self.bytes)
                shifted = builder.bitcast(
                    builder.lshr(builder.bitcast(x, self.words), four),
                    self.bytes)
                for found in (self.look_up(low, x),
                              self.look_up(high, shifted)):
                    found = builder.bitcast(found, self.words)
                    self.add_to(both[part], found)
                    self.add_to(odd[part], builder.lshr(found, eight))
        mixed = ir.Constant(self.ints, [
            lane for i in range(self.half) for lane in (i, self.half + i)])
        out = []
        for part in self.parts:
            upper = builder.load(odd[part])
            lower = builder.sub(builder.load(both[part]),
                                builder.shl(upper, eight))
            out.append(builder.shuffle_vector(lower, upper, mixed))
        return out

    def wide_sums(self, codes: Any, length: Any, tables: Any, size: Any,
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
                    builder.gep(codes, [builder.mul(begin,
                                                    self.number(_BLOCK))]),
                    length, builder.gep(tables, [at]), now)
                for place, part in zip(total, sums, strict=True):
                    self.add_to(place, builder.shl(
                        builder.zext(part, self.ints), shifts))
        return [builder.load(place) for place in total]

    def totals(self, codes: Any, tables: Any, size: Any,
               planes: Any) -> list[Any]:
        # The sums of the blocks' rows as 32-bit numbers.
        builder = self.builder
        length = builder.mul(size, self.number(_BLOCK))
        out = self.variables(self.ints)
        simple = builder.and_(
            builder.icmp_signed("==", planes, self.number(1)),
            builder.icmp_signed("<=", size, self.number(_CHUNK)))
        with builder.if_else(simple) as (then, otherwise):
            with then:  # one look: its sums stay in registers
                sums = self.sums(codes, length, tables, size)
                for place, part in zip(out, sums, strict=True):
                    builder.store(builder.zext(part, self.ints), place)
            with otherwise:
                sums = self.wide_sums(codes, length, tables, size, planes)
                for place, part in zip(out, sums, strict=True):
                    builder.store(part, place)
        return [builder.load(place) for place in out]

    def bounds(self, sums: list[Any], scale: Any, offset: Any,
               has_offset: Any, terms: tuple[Any, ...], limit: Any,
               out: Any, passed: Any) -> Any:
        # Stores which rows reach the limit, a bit each, and the upper bounds
        # of the blocks that have some; returns a bit for each block.
        builder, fast = self.builder, ("contract", )
        constant, delta, margin, turn, slack = map(self.spread, terms)
        least = self.spread(limit)
        size = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(self.floats, [self.floats]),
            f"llvm.fabs.v{self.lanes}f32")
        found = self.number(0)
        each = _BLOCK // self.lanes
        for block in range(self.blocks):
            rows, values = ir.Constant(_I64, 0), []
            for part in range(block * each, (block + 1) * each):
                at = self.number(part * self.lanes)
                self.fetch_numbers(scale, part)
                if scale.type.pointee == _FLOAT:
                    r = self.load(scale, at, self.floats)
                else:
                    r = widen_halves(builder, self.load(
                        scale, at, ir.VectorType(_I16, self.lanes)))
                value = builder.fmul(
                    builder.uitofp(sums[part], self.floats), delta,
                    flags=fast)
                value = builder.fmul(
                    builder.fadd(value, constant, flags=fast), r, flags=fast)
                wide = builder.fmul(builder.call(size, [r]), margin,
                                    flags=fast)
                bound = cgutils.alloca_once_value(
                    builder, builder.fadd(value, wide, flags=fast))
                with builder.if_then(has_offset):
                    o = self.load(offset, at, self.floats)
                    more = builder.fadd(
                        builder.fmul(o, turn, flags=fast),
                        builder.fmul(builder.call(size, [o]), slack,
                                     flags=fast), flags=fast)
                    builder.store(builder.fadd(builder.load(bound), more),
                                  bound)
                values.append(builder.load(bound))
                reached = builder.fcmp_ordered(">=", values[-1], least)
                bits = builder.bitcast(reached, ir.IntType(self.lanes))
                first = part % each * self.lanes
                rows = builder.or_(rows, builder.shl(
                    builder.zext(bits, _I64), ir.Constant(_I64, first)))
            builder.store(rows, builder.gep(passed, [self.number(block)]))
            some = builder.icmp_unsigned("!=", rows, ir.Constant(_I64, 0))
            with builder.if_then(some, likely=False):
                for number, value in enumerate(values):
                    at = self.number((block * each + number) * self.lanes)
                    place = builder.bitcast(builder.gep(out, [at]),
                                            self.floats.as_pointer())
                    builder.store(value, place, align=4)
            found = builder.or_(found, builder.shl(
                builder.zext(some, self.index), self.number(block)))
        return found


def emit_tile_bounds(builder: Any, feature: str, codes: Any, blocks: Any,
                     size: Any, tables: Any, planes: Any, scale: Any,
                     offset: Any, has_offset: Any, terms: tuple[Any, ...],
                     limit: Any, out: Any, passed: Any) -> Any:
    r"""Writes the code of :func:`tile_bounds` and returns its result; all
    arguments but the first two are values, the arrays pointers.
    """
    index = size.type
    one, two = ir.Constant(index, 1), ir.Constant(index, 2)
    block_bytes = builder.mul(size, ir.Constant(index, _BLOCK))
    result = cgutils.alloca_once_value(builder, ir.Constant(index, 0))

    def look(first: Any, count: int) -> None:
        row = builder.mul(first, ir.Constant(index, _BLOCK))
        emit = _Emitter(builder, feature, index, count)
        totals = emit.totals(
            builder.gep(codes, [builder.mul(first, block_bytes)]), tables,
            size, planes)
        found = emit.bounds(
            totals, builder.gep(scale, [row]), builder.gep(offset, [row]),
            has_offset, terms, limit, builder.gep(out, [row]),
            builder.gep(passed, [first]))
        builder.store(builder.or_(builder.load(result),
                                  builder.shl(found, first)), result)

    pairs = builder.lshr(blocks, one)
    with cgutils.for_range(builder, pairs, intp=index) as loop:
        look(builder.mul(loop.index, two), 2)
    with builder.if_then(builder.trunc(blocks, ir.IntType(1))):
        look(builder.sub(blocks, one), 1)
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
                 *[single] * 6, floats, _I64.as_pointer()]
    function = ir.Function(module, ir.FunctionType(index, arguments),
                           "tile_bounds")
    builder = ir.IRBuilder(function.append_basic_block())
    (codes, blocks, size, tables, planes, scale, offset, *terms, limit, out,
     passed) = function.args
    builder.ret(emit_tile_bounds(
        builder, feature, codes, blocks, size, tables, planes, scale, offset,
        ir.Constant(ir.IntType(1), 1), tuple(terms), limit, out, passed))
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
