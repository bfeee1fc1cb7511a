"""Estimate cycles of a Cortex-M4F with STM32F4 flash from an instruction trace.

A model with a band of +-35 %.

Core costs follow the Cortex-M4 technical reference manual (instruction timings); flash follows RM0090
section 3.2: an instruction cache of 64 lines and a data cache of 8 lines of 16 bytes, both taken as LRU, 5
wait states at 168 MHz, and a prefetch that hides 3 of them on a sequential miss. No silicon was measured.
Instruction counts are exact, this is not.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from flocklet.firmware_export.verify.unicorn_engine import Emulator

__all__ = ["BAND", "Cycles", "Operation", "count_cycles", "decode"]

BAND = "model, +-35 %"
_TAKEN = 2
_WAIT, _HIDDEN = 5, 3
_ICACHE, _DCACHE, _LINE = 64, 8, 16


@dataclass(frozen=True)
class Cycles:
    """Hold modelled cycles: `core` with no wait states, `total` with flash at 168 MHz."""

    core: int
    total: int


@dataclass(frozen=True)
class Operation:
    """Hold what the model needs of one instruction.

    kind: alu, load, store, multi (n words move), vload, branch, fp, mac, slow. base/index/offset: where a
    load reads, register numbers (15 is the program counter). writes/reads/adds: FP registers; adds is the
    accumulator of a MAC.
    """

    kind: str
    cycles: int
    words: int = 0
    base: int = -1
    index: int = -1
    shift: int = 0
    offset: int = 0
    target: int = -1
    writes: frozenset[int] = frozenset()
    reads: frozenset[int] = frozenset()


_ALU = Operation("alu", 1)


def _decode16(h: int) -> Operation:
    top = h >> 11
    if top == 9:
        return Operation("load", 2, 1, base=15, offset=(h & 255) * 4, target=(h >> 8) & 7)
    if h >> 12 == 5:
        kind = "load" if (h >> 9) & 7 >= 3 else "store"
        return Operation(kind, 2 if kind == "load" else 1, 1, (h >> 3) & 7, (h >> 6) & 7, target=h & 7)
    if top in {12, 13, 14, 15, 16, 17}:
        scale = {12: 4, 13: 4, 14: 1, 15: 1, 16: 2, 17: 2}[top]
        kind = "load" if top & 1 else "store"
        return Operation(
            kind, 2 if top & 1 else 1, 1, (h >> 3) & 7, offset=((h >> 6) & 31) * scale, target=h & 7
        )
    if top in {18, 19}:
        kind = "load" if top & 1 else "store"
        return Operation(kind, 2 if top & 1 else 1, 1, 13, offset=(h & 255) * 4, target=(h >> 8) & 7)
    if h & 0xF600 == 0xB400:
        n = (h & 0x1FF).bit_count()
        return Operation("branch" if h & 0x900 == 0x900 else "multi", 1 + n, n if h & 0x800 else 0, base=13)
    if top in {24, 25}:
        n = (h & 255).bit_count()
        return Operation("multi", 1 + n, n if top & 1 else 0, base=(h >> 8) & 7)
    if top in {26, 27, 28} or h & 0xFF00 == 0x4700 or h & 0xF500 == 0xB100:
        return Operation("branch", 1)
    return _ALU


def _single(high: int, extra: int) -> int:
    return (high << 1) | extra


def _decode_fp(a: int, b: int) -> Operation:
    """Decode a VFP instruction of single precision."""
    d = _single((b >> 12) & 15, (a >> 6) & 1)
    if a & 0xFF20 == 0xED00:
        offset = (b & 255) * 4 * (1 if a & 0x80 else -1)
        if a & 0x10:
            return Operation("vload", 2, 1, a & 15, offset=offset, writes=frozenset({d}))
        return Operation("store", 2, 0, a & 15, reads=frozenset({d}))
    if a & 0xFE00 == 0xEC00:
        if a & 0xFFE0 == 0xEC40:
            return Operation("fp", 2)
        n = b & 255
        moved = frozenset(range(d, d + n))
        if not a & 0x10:
            return Operation("multi", 1 + n, 0, reads=moved)
        back = n * 4 if a & 0x120 == 0x120 else 0
        return Operation("multi", 1 + n, n, a & 15, offset=-back, writes=moved)
    n = _single(a & 15, (b >> 7) & 1)
    m = _single(b & 15, (b >> 5) & 1)
    if b & 0x10:
        to_core = bool(a & 0x10)
        return Operation(
            "fp",
            1,
            reads=frozenset({n}) if to_core else frozenset(),
            writes=frozenset() if to_core else frozenset({n}),
        )
    op = (a >> 4) & 0xB
    if op in {0, 1, 9, 10}:
        return Operation("mac", 3, writes=frozenset({d}), reads=frozenset({n, m}))
    if op == 8:
        return Operation("fp", 14, writes=frozenset({d}), reads=frozenset({n, m}))
    if op == 11:
        cost = 14 if a & 15 == 1 and b & 0xC0 == 0xC0 else 1
        compare = a & 14 == 4
        return Operation(
            "fp",
            cost,
            writes=frozenset() if compare else frozenset({d}),
            reads=frozenset({m, d} if compare else {m}),
        )
    return Operation("fp", 1, writes=frozenset({d}), reads=frozenset({n, m}))


def decode(a: int, b: int) -> Operation:
    """Decode one Thumb instruction from its first halfword, and its second where it has one."""
    if a >> 11 not in {29, 30, 31}:
        return _decode16(a)
    if a & 0xEC00 == 0xEC00 and (b >> 8) & 15 in {10, 11}:
        return _decode_fp(a, b)
    if a & 0xFE40 == 0xE800:
        n = b.bit_count()
        load = a & 0x10
        return Operation("branch" if load and b & 0x8000 else "multi", 1 + n, n if load else 0, a & 15,
                         offset=-4 * n if a & 0x100 else 0)  # fmt: skip
    if a & 0xFE40 == 0xE840:
        if a & 0xFFF0 == 0xE8D0:
            return Operation("branch", 2)
        offset = (b & 255) * 4 * (1 if a & 0x80 else -1) if a & 0x100 else 0
        return Operation("multi", 3, 2 if a & 0x10 else 0, a & 15, offset=offset)
    if a & 0xFE00 == 0xF800:
        kind, cost, rn, rt = ("load", 2, a & 15, b >> 12) if a & 0x10 else ("store", 1, a & 15, -1)
        if rn == 15:
            return Operation(kind, cost, 1, 15, offset=(b & 0xFFF) * (1 if a & 0x80 else -1), target=rt)
        if a & 0x80:
            return Operation(kind, cost, 1, rn, offset=b & 0xFFF, target=rt)
        if b & 0x800:
            offset = (b & 255) * (1 if b & 0x200 else -1) if b & 0x400 else 0
            return Operation(kind, cost, 1, rn, offset=offset, target=rt)
        return Operation(kind, cost, 1, rn, b & 15, (b >> 4) & 3, target=rt)
    if a & 0xF800 == 0xF000 and b & 0x8000:
        return Operation("branch", 1)
    if a & 0xFFD0 == 0xFB90:
        return Operation("slow", 12)
    return _ALU


class _Cache:
    def __init__(self, lines: int) -> None:
        self.lines = lines
        self.held: OrderedDict[int, None] = OrderedDict()

    def miss(self, line: int) -> bool:
        if line in self.held:
            self.held.move_to_end(line)
            return False
        self.held[line] = None
        if len(self.held) > self.lines:
            self.held.popitem(last=False)
        return True


def count_cycles(
    emulator: Emulator, symbol: str, *arguments: int, profile: dict[int, tuple[int, int]] | None = None
) -> Cycles:
    """Call a function and return its modelled cycles; `profile` receives (core, wait) per address."""
    uc, regs = emulator.uc, emulator.regs
    numbers = [getattr(regs, f"UC_ARM_REG_R{i}") for i in range(13)]
    numbers += [regs.UC_ARM_REG_SP, regs.UC_ARM_REG_LR, regs.UC_ARM_REG_PC]
    flash = range(emulator.core.flash, emulator.core.flash + (1 << 20))
    table: dict[int, Operation] = {}
    icache, dcache = _Cache(_ICACHE), _Cache(_DCACHE)
    core = wait = 0
    last: Operation = _ALU
    expected = last_line = -1

    def on_code(at: int, size: int) -> None:
        nonlocal core, wait, last, expected, last_line
        before = core, wait
        op = table.get(at)
        if op is None:
            code = bytes(uc.mem_read(at, size))
            op = decode(code[0] | code[1] << 8, code[2] | code[3] << 8 if size == 4 else 0)
            table[at] = op
        taken = expected not in {-1, at}
        core += _TAKEN if taken else 0
        cost = op.cycles
        depends = last.target >= 0 and last.target in {op.base, op.index}
        if op.kind in {"load", "vload"} and last.kind in {"load", "vload"} and not depends:
            cost = 1
        if last.kind in {"fp", "mac"} and last.writes & op.reads:
            cost += 1
        core += cost
        for line in range(at // _LINE, (at + size - 1) // _LINE + 1):
            if line != last_line and icache.miss(line):
                wait += _WAIT - _HIDDEN if line == last_line + 1 and not taken else _WAIT
            last_line = line
        if op.words and op.base >= 0:
            address = (at + 4) & ~3 if op.base == 15 else uc.reg_read(numbers[op.base])
            address += op.offset
            if op.index >= 0:
                address += uc.reg_read(numbers[op.index]) << op.shift
            address &= 0xFFFFFFFF
            if address in flash:
                for line in range(address // _LINE, (address + 4 * op.words - 1) // _LINE + 1):
                    wait += _WAIT if dcache.miss(line) else 0
        last, expected = op, at + size
        if profile is not None:
            old = profile.get(at, (0, 0))
            profile[at] = (old[0] + core - before[0], old[1] + wait - before[1])

    hook: Any = on_code
    emulator.call(symbol, *arguments, hook=hook)
    return Cycles(core, core + wait)
