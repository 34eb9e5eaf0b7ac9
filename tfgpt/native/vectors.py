"""The inner loop, written for LLVM: a few rows of numbers times a panel of a matrix, 32 columns that lie together.

A sum goes along its rows in order, one fused step after the other, however many rows are worked beside it. So what one token
gives does not depend, to the last bit, on how many others are computed at the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

PANEL = 32  # columns of a matrix that lie together: [columns / 32, rows, 32]
HALF = 16  # numbers of a vector here; a processor whose own are shorter takes several for it
STORED = {types.float32: ir.FloatType(), types.int8: ir.IntType(8), types.uint16: ir.IntType(16)}
WORD = ir.IntType(64)
FLOATS = ir.VectorType(ir.FloatType(), HALF)


@cache
def wide() -> bool:
    """Whether the processor has 32 registers of 512 bits."""
    return bool(binding.get_host_cpu_features().get("avx512f"))


def tallest() -> int:
    """How many rows are worked at a time at most, so that all their sums stay in registers."""
    return 12 if wide() else 6


@intrinsic
def add_product(typing, rows, x, x_step, w, n, out, out_step, like):
    """Add to `rows` of `out` [rows, 32] the product of as many rows of x [rows, n] and a panel w [n, 32].

    x, w and out are addresses, the steps distances from row to row in numbers. The type of the array `like` says what w is
    made of: float32, int8, or uint16 for bfloat16. `rows` is 1 to tallest().
    """

    def generate(context, builder, signature, arguments):
        kind = like.dtype
        name = f"tfgpt_add_product_{kind}"
        function = builder.module.globals.get(name) or _function(builder.module, name, kind)
        builder.call(function, arguments[:7])
        return context.get_dummy_value()

    return types.void(*[types.intp] * 7, like), generate


def _function(module: Any, name: str, kind: Any) -> Any:
    """A function of its own, once in a module: put into each place that calls it, it takes most of the compiler's time."""
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [WORD] * 7), name)
    function.linkage = "linkonce_odr"
    function.attributes.add("noinline")
    _Tiles(ir.IRBuilder(function.append_basic_block()), kind, *function.args).write()
    return function


class _Tiles:
    """Writes one loop for each number of rows, and chooses among them."""

    def __init__(
        self, builder: Any, kind: Any, rows: Any, x: Any, x_step: Any, w: Any, n: Any, out: Any, out_step: Any
    ):
        self.builder, self.kind, self.rows = builder, kind, rows
        self.x, self.x_step, self.w, self.n, self.out, self.out_step = x, x_step, w, n, out, out_step
        self.bytes = kind.bitwidth // 8
        self.fused = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(FLOATS, [FLOATS] * 3), f"llvm.fmuladd.v{HALF}f32"
        )

    def write(self) -> None:
        """The function's body."""
        behind = self.builder.append_basic_block("multiplied")
        chosen = self.builder.switch(self.rows, behind)
        for rows in range(1, tallest() + 1):
            block = self.builder.append_basic_block(f"rows_{rows}")
            chosen.add_case(ir.Constant(WORD, rows), block)
            self.builder.position_at_end(block)
            halves = 2 if wide() or rows <= 3 else 1
            for first in range(0, 2, halves):
                self._loop(rows, range(first, first + halves))
            self.builder.branch(behind)
        self.builder.position_at_end(behind)
        self.builder.ret_void()

    def _loop(self, rows: int, halves: range) -> None:
        builder = self.builder
        places = [(row, half) for row in range(rows) for half in halves]
        starts = [builder.load(self._sum_at(*place), align=4) for place in places]
        lines = [builder.mul(self.x_step, _word(row)) for row in range(rows)]
        before, loop, behind = builder.block, builder.append_basic_block("along"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        i = builder.phi(WORD)
        i.add_incoming(_word(0), before)
        sums = [builder.phi(FLOATS) for _ in places]
        weights = {half: self._weights(i, half) for half in halves}
        values = [self._spread(self._at(self.x, builder.add(line, i), 4, ir.FloatType())) for line in lines]
        news = [
            builder.call(self.fused, [values[row], weights[half], total])
            for (row, half), total in zip(places, sums, strict=True)
        ]
        following = builder.add(i, _word(1))
        i.add_incoming(following, loop)
        for total, start, new in zip(sums, starts, news, strict=True):
            total.add_incoming(start, before)
            total.add_incoming(new, loop)
        builder.cbranch(builder.icmp_signed("<", following, self.n), loop, behind)
        builder.position_at_end(behind)
        for place, new in zip(places, news, strict=True):
            builder.store(new, self._sum_at(*place), align=4)

    def _weights(self, i: Any, half: int) -> Any:
        index = self.builder.add(self.builder.mul(i, _word(PANEL)), _word(half * HALF))
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
        nothing, number = ir.Constant(FLOATS, ir.Undefined), ir.IntType(32)
        one = self.builder.insert_element(nothing, self.builder.load(address), ir.Constant(number, 0))
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
