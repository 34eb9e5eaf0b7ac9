"""The inner loop, written for LLVM: a few rows of numbers times a panel of a matrix, columns that lie together.

A sum goes along its rows in order, one fused step after the other, however many rows are worked beside it. So what one token
gives does not depend, to the last bit, on how many others are computed at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

PANEL = 32  # columns of a matrix that lie together: [columns / 32, rows, 32]
HALF = 16  # numbers of a vector here; a processor whose own are shorter takes several for it
STORED = {
    types.float32: ir.FloatType(),
    types.int8: ir.IntType(8),
    types.uint16: ir.IntType(16),
    types.uint32: ir.IntType(32),
}
PAIRS = types.uint32  # two bfloat16 that are multiplied with two others and added, the first of them in the lower half
WORD = ir.IntType(64)
FLOATS = ir.VectorType(ir.FloatType(), HALF)


@cache
def wide() -> bool:
    """Whether the processor has 32 registers of 512 bits."""
    return bool(binding.get_host_cpu_features().get("avx512f"))


@cache
def pairs_at_once() -> bool:
    """Whether the processor multiplies and adds pairs of bfloat16 by one instruction, and numba compiles for this processor."""
    told = config.CPU_NAME, config.CPU_FEATURES
    return wide() and not any(told) and bool(binding.get_host_cpu_features().get("avx512bf16"))


@cache
def tiles_of_pairs() -> bool:
    """Whether it multiplies whole tiles of them, which is much faster still, and nothing that is written here."""
    return bool(binding.get_host_cpu_features().get("amx-bf16"))


def tallest() -> int:
    """How many rows are worked at a time at most, so that all their sums stay in registers."""
    return 12 if wide() else 6


def heights() -> list[int]:
    """Numbers of rows that training works at a time, from the largest on; any number is a sum of some of them."""
    return [12, 8, 4, 2, 1] if wide() else [6, 4, 2, 1]


def tile() -> int:
    """Columns of a panel that is worked from its first row to its last with all sums of `tallest()` rows in registers."""
    return 2 * HALF if wide() else HALF


@intrinsic
def add_product(typing, rows, x, x_step, w, n, out, out_step, like):
    """Add to `rows` of `out` [rows, 32] the product of as many rows of x [rows, n] and a panel w [n, 32].

    x, w and out are addresses, the steps distances from row to row in numbers. The type of the array `like` says what w is
    made of: float32, int8, or uint16 for bfloat16. `rows` is 1 to tallest().
    """

    kind = like.dtype
    call = _call(f"tfgpt_add_product_{kind}", kind, PANEL, range(1, tallest() + 1), turned=False)

    def generate(context, builder, signature, arguments):
        return call(context, builder, signature, [*arguments[:7], _word(1)])

    return types.void(*[types.intp] * 7, like), generate


@intrinsic
def put_tile(typing, rows, x, x_step, w, n, out, out_step, add):
    """`add_product` with a float32 panel of `tile()` columns, for as many rows as `heights()` has; without `add` it is put there."""
    return types.void(*[types.intp] * 8), _call("tfgpt_put_tile", types.float32, tile(), heights(), turned=False)


@intrinsic
def put_turned_tile(typing, rows, x, x_step, w, n, out, out_step, add):
    """`put_tile` of an x that is turned over, [n, rows]: what is multiplied with a row of w lies together."""
    return types.void(*[types.intp] * 8), _call("tfgpt_put_turned_tile", types.float32, tile(), heights(), turned=True)


@intrinsic
def put_tile_of_pairs(typing, rows, x, x_step, w, n, out, out_step, add):
    """`put_turned_tile` of pairs of bfloat16: n of them in each row of out; x [n, rows] and w [n, tile()] are such pairs."""
    return types.void(*[types.intp] * 8), _call("tfgpt_put_tile_of_pairs", PAIRS, tile(), heights(), turned=True)


def _call(name: str, kind: Any, panel: int, cases: Iterable[int], *, turned: bool) -> Callable[..., Any]:
    def generate(context, builder, signature, arguments):
        function = builder.module.globals.get(name) or _function(builder.module, name, kind, panel, cases, turned)
        builder.call(function, arguments)
        return context.get_dummy_value()

    return generate


def _function(module: Any, name: str, kind: Any, panel: int, cases: Iterable[int], turned: bool) -> Any:
    """A function of its own, once in a module: put into each place that calls it, it takes most of the compiler's time."""
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [WORD] * 8), name)
    function.linkage = "linkonce_odr"
    function.attributes.add("noinline")
    _Tiles(ir.IRBuilder(function.append_basic_block()), kind, panel, turned, *function.args).write(cases)
    return function


class _Tiles:
    """Writes one loop for each number of rows, and chooses among them."""

    def __init__(self, builder: Any, kind: Any, panel: int, turned: bool, *given: Any) -> None:
        self.builder, self.kind, self.panel, self.turned = builder, kind, panel, turned
        self.rows, self.x, self.x_step, self.w, self.n, self.out, self.out_step, self.add = given
        self.bytes = kind.bitwidth // 8
        self.fused = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(FLOATS, [FLOATS] * 3), f"llvm.fmuladd.v{HALF}f32"
        )

    def write(self, cases: Iterable[int]) -> None:
        """The function's body."""
        behind = self.builder.append_basic_block("multiplied")
        chosen = self.builder.switch(self.rows, behind)
        for rows in cases:
            block = self.builder.append_basic_block(f"rows_{rows}")
            chosen.add_case(ir.Constant(WORD, rows), block)
            self.builder.position_at_end(block)
            count = self.panel // HALF
            halves = count if wide() or rows <= 3 else 1
            for first in range(0, count, halves):
                self._loop(rows, range(first, first + halves))
            self.builder.branch(behind)
        self.builder.position_at_end(behind)
        self.builder.ret_void()

    def _loop(self, rows: int, halves: range) -> None:
        builder = self.builder
        places = [(row, half) for row in range(rows) for half in halves]
        for place in places:
            self._fetch(self._sum_at(*place))
        starts = [ir.Constant(FLOATS, [0.0] * HALF) for _ in places]
        apart = self._own(builder.mul(self.x_step, _word(4)))  # bytes from row to row of x
        count = 1 if self.turned else rows
        lines = [self._own(builder.add(self.x, builder.mul(apart, _word(row)))) for row in range(count)]
        before, loop, behind = builder.block, builder.append_basic_block("along"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        i, along = builder.phi(WORD), builder.phi(WORD)
        sums = [builder.phi(FLOATS) for _ in places]
        weights = {half: self._weights(i, half) for half in halves}
        values = [
            self._spread(builder.add(builder.add(lines[0], along), _word(4 * row)))
            if self.turned
            else self._spread(builder.add(lines[row], along))
            for row in range(rows)
        ]
        add = self._add_pairs if self.kind == PAIRS else self._add
        news = [add(values[row], weights[half], total) for (row, half), total in zip(places, sums, strict=True)]
        following = builder.add(i, _word(1))
        for counter, more in ((i, following), (along, builder.add(along, apart if self.turned else _word(4)))):
            counter.add_incoming(_word(0), before)
            counter.add_incoming(more, loop)
        for total, start, new in zip(sums, starts, news, strict=True):
            total.add_incoming(start, before)
            total.add_incoming(new, loop)
        builder.cbranch(builder.icmp_signed("<", following, self.n), loop, behind)
        builder.position_at_end(behind)
        adds = builder.icmp_signed("!=", self.add, _word(0))
        with builder.if_else(adds) as (then, otherwise):
            with then:
                for place, new in zip(places, news, strict=True):
                    whole = builder.fadd(new, builder.load(self._sum_at(*place), align=4))
                    builder.store(whole, self._sum_at(*place), align=4)
            with otherwise:
                for place, new in zip(places, news, strict=True):
                    builder.store(new, self._sum_at(*place), align=4)

    def _add(self, value: Any, weight: Any, total: Any) -> Any:
        return self.builder.call(self.fused, [value, weight, total])

    def _add_pairs(self, value: Any, weight: Any, total: Any) -> Any:
        if pairs_at_once():
            # Declared with whole numbers, as LLVM did at first: where it has a type for pairs since, it takes these for them.
            kind = ir.FunctionType(FLOATS, [FLOATS, weight.type, value.type])
            name = f"llvm.x86.avx512bf16.dpbf16ps.{32 * HALF}"
            return self.builder.call(
                cgutils.get_or_insert_function(self.builder.module, kind, name), [total, weight, value]
            )
        for half in (self._lower, self._upper):
            total = self._add(half(value), half(weight), total)
        return total

    def _lower(self, pair: Any) -> Any:
        """The first number of each pair; a bfloat16 is the upper half of a float32."""
        return self.builder.bitcast(self.builder.shl(pair, ir.Constant(pair.type, [16] * HALF)), FLOATS)

    def _upper(self, pair: Any) -> Any:
        return self.builder.bitcast(self.builder.and_(pair, ir.Constant(pair.type, [0xFFFF0000] * HALF)), FLOATS)

    def _fetch(self, address: Any) -> None:
        """Bring it near: by the time that it is added to, it is there."""
        number, place = ir.IntType(32), ir.PointerType(ir.IntType(8))
        kind = ir.FunctionType(ir.VoidType(), [place, number, number, number])
        fetch = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0i8")
        given = [ir.Constant(number, value) for value in (1, 3, 1)]  # to write to, keep, data
        self.builder.call(fetch, [self.builder.bitcast(address, place), *given])

    def _own(self, value: Any) -> Any:
        """The same number, of which the compiler forgets how it came about: it would work out some anew in every step."""
        return self.builder.asm(ir.FunctionType(WORD, [WORD]), "", "=r,0", [value], side_effect=False)

    def _weights(self, i: Any, half: int) -> Any:
        index = self.builder.add(self.builder.mul(i, _word(self.panel)), _word(half * HALF))
        found = self.builder.load(
            self._at(self.w, index, self.bytes, ir.VectorType(STORED[self.kind], HALF)), align=self.bytes
        )
        if self.kind == types.int8:
            return self.builder.sitofp(found, FLOATS)
        if self.kind == types.uint16:  # bfloat16 is the upper half of a float32
            whole = self.builder.zext(found, ir.VectorType(ir.IntType(32), HALF))
            return self.builder.bitcast(self.builder.shl(whole, ir.Constant(whole.type, [16] * HALF)), FLOATS)
        return found

    def _spread(self, address: Any) -> Any:
        number = ir.IntType(32)
        kind = number if self.kind == PAIRS else ir.FloatType()
        nothing = ir.Constant(ir.VectorType(kind, HALF), ir.Undefined)
        value = self.builder.load(self.builder.inttoptr(address, ir.PointerType(kind)))
        one = self.builder.insert_element(nothing, value, ir.Constant(number, 0))
        return self.builder.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(number, HALF), [0] * HALF))

    def _sum_at(self, row: int, half: int) -> Any:
        index = self.builder.add(self.builder.mul(self.out_step, _word(row)), _word(half * HALF))
        return self._at(self.out, index, 4, FLOATS)

    def _at(self, base: Any, index: Any, size: int, what: Any) -> Any:
        place = self.builder.add(base, self.builder.mul(index, _word(size)))
        return self.builder.inttoptr(place, ir.PointerType(what))


def _word(value: int) -> Any:
    return ir.Constant(WORD, value)


def _cast(kind: Any, given: Any, build: Callable[[Any, Any], Any]) -> Any:
    return kind(given), lambda context, builder, signature, arguments: build(builder, arguments[0])


@intrinsic
def copy_tile(typing, source, target):
    """Copy `tile()` numbers."""
    return types.void(types.intp, types.intp), _copy(tile())


@intrinsic
def copy_tallest(typing, source, target):
    """Copy `tallest()` numbers, and a few more that stand behind them."""
    return types.void(types.intp, types.intp), _copy(16 if wide() else 8)


@intrinsic
def join_tallest(typing, first, second, target):
    """`tallest()` numbers of two rows, rounded to bfloat16 and joined in pairs, and a few more that stand behind them."""

    def generate(context, builder, signature, arguments):
        kind = ir.VectorType(ir.IntType(32), 16 if wide() else 8)
        first, second, target = (builder.inttoptr(place, ir.PointerType(kind)) for place in arguments)

        def every(value):
            return ir.Constant(kind, [value] * kind.count)

        def rounded(place):  # as `tfgpt.native.pairs.rounded`
            bits = builder.load(place, align=4)
            odd = builder.and_(builder.lshr(bits, every(16)), every(1))
            near = builder.lshr(builder.add(builder.add(bits, every(0x7FFF)), odd), every(16))
            number = builder.icmp_unsigned("<=", builder.and_(bits, every(0x7FFFFFFF)), every(0x7F800000))
            return builder.select(number, near, every(0x7FC0))

        builder.store(builder.or_(rounded(first), builder.shl(rounded(second), every(16))), target, align=4)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 3), generate


def _copy(count: int) -> Callable[..., Any]:
    def generate(context, builder, signature, arguments):
        kind = ir.PointerType(ir.VectorType(ir.FloatType(), count))
        source, target = (builder.inttoptr(place, kind) for place in arguments)
        builder.store(builder.load(source, align=4), target, align=4)
        return context.get_dummy_value()

    return generate


@intrinsic
def turn(typing, x, x_step, out, out_step):
    """Write 8 rows of 8 numbers at x to `out` as 8 columns."""

    def generate(context, builder, signature, arguments):
        x, x_step, out, out_step = arguments
        kind = ir.VectorType(ir.FloatType(), 8)

        def place(base, step, i):
            index = builder.mul(builder.mul(step, _word(i)), _word(4))
            return builder.inttoptr(builder.add(base, index), ir.PointerType(kind))

        def shuffled(a, b, order):
            return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), 8), order))

        rows = [builder.load(place(x, x_step, i), align=4) for i in range(8)]
        # Pairs of rows, then of pairs, then of fours: after each, what belongs together lies together twice as far.
        low, high = [0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]
        pairs = [shuffled(rows[i], rows[i + 1], order) for i in range(0, 8, 2) for order in (low, high)]
        low, high = [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]
        fours = [shuffled(pairs[i + j], pairs[i + j + 2], o) for i in (0, 4) for j in (0, 1) for o in (low, high)]
        # Columns one after the other: of a narrower matrix, what is too much of one is the next one's, which overwrites it.
        for first, order in ((0, [0, 1, 2, 3, 8, 9, 10, 11]), (4, [4, 5, 6, 7, 12, 13, 14, 15])):
            for i in range(4):
                builder.store(shuffled(fours[i], fours[i + 4], order), place(out, out_step, first + i), align=4)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), generate


@intrinsic
def number_at(typing, address):
    """A pointer to float32, of which `numba.carray` makes an array."""
    return _pointer_to(types.float32)


@intrinsic
def bits_at(typing, address):
    """The same to uint32."""
    return _pointer_to(types.uint32)


def _pointer_to(kind: Any) -> Any:
    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], ir.PointerType(STORED[kind]))

    return types.CPointer(kind)(types.intp), generate


@intrinsic
def number_of(typing, stored):
    """What a stored number means, as float32: a float32, an int8, or a bfloat16 as uint16."""

    def build(builder, value):
        if stored == types.float32:
            return value
        if stored == types.int8:
            return builder.sitofp(value, ir.FloatType())
        whole = builder.shl(builder.zext(value, ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
        return builder.bitcast(whole, ir.FloatType())

    return _cast(types.float32, stored, build)


@intrinsic
def power_of_two(typing, shifted):
    """2 to the n, where `shifted`, a float32, is n + 1.5 * 2**23, so that n stands in its last bits."""

    def build(builder, value):
        bits = builder.bitcast(value, ir.IntType(32))
        n = builder.add(bits, ir.Constant(ir.IntType(32), 127))
        return builder.bitcast(builder.shl(n, ir.Constant(ir.IntType(32), 23)), ir.FloatType())

    return _cast(types.float32, shifted, build)
