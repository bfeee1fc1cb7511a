"""Run an image in the unicorn emulator: any symbol of any core, with exact instruction counts and stack use.

Instructions are counted by a block hook (address, size) times the decoded number of instructions in the
block; memory hooks are never used, because they change what Thumb code does. The translation cache is
flushed around adding a hook, or blocks that ran before would not be counted.
"""

from __future__ import annotations

import importlib
import importlib.util
import struct
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flocklet.errors import MissingExtra, VerificationError
from flocklet.firmware_export.verify.elf import Image
from flocklet.firmware_export.verify.toolchain import Core

__all__ = ["Call", "Emulator", "available", "version"]

_STACK_BYTES = 32 * 1024
_PAINT = 0xA5
_SENTINEL = 0x0F000000
_BUFFERS = 0x30000000
_MODELS = {
    "cortex-m4": "UC_CPU_ARM_CORTEX_M4",
    "cortex-m7": "UC_CPU_ARM_CORTEX_M7",
    "cortex-m33": "UC_CPU_ARM_CORTEX_M33",
    "cortex-m0plus": "UC_CPU_ARM_CORTEX_M0",
}


@dataclass(frozen=True)
class Call:
    """Hold what a call cost: instructions (0 where not counted) and bytes of stack."""

    instructions: int
    stack_bytes: int


def available() -> bool:
    """Return whether unicorn is installed."""
    return importlib.util.find_spec("unicorn") is not None


def version() -> str:
    """Return the version of unicorn."""
    return str(importlib.import_module("unicorn").__version__)


class Emulator:
    """Hold an emulated core with an image loaded; memory persists between calls."""

    def __init__(self, image: Image, core: Core) -> None:
        if not available():
            raise MissingExtra("unicorn", "firmware", "running the code on an emulated core")
        self.core = core
        self.image = image
        self.uc_module: Any = importlib.import_module("unicorn")
        self.is_arm = image.machine == 40
        u = self.uc_module
        if self.is_arm:
            self.regs: Any = importlib.import_module("unicorn.arm_const")
            self.uc = u.Uc(u.UC_ARCH_ARM, u.UC_MODE_THUMB | u.UC_MODE_MCLASS)
            self.uc.ctl_set_cpu_model(getattr(self.regs, _MODELS[core.name]))
        else:
            self.regs = importlib.import_module("unicorn.riscv_const")
            self.uc = u.Uc(u.UC_ARCH_RISCV, u.UC_MODE_RISCV32)
        self.uc.mem_map(core.flash, 1 << 20)
        self.uc.mem_map(core.ram, 1 << 18)
        self.uc.mem_map(_BUFFERS, 1 << 20)
        self.uc.mem_map(_SENTINEL, 0x1000)
        if self.is_arm:
            self.uc.mem_map(0xE000E000, 0x1000)
        for segment in image.segments:
            for address in {segment.virtual, segment.physical}:
                self.uc.mem_write(address, segment.data)
        if self.is_arm and core.has_fpu:
            self.uc.mem_write(0xE000ED88, struct.pack("<I", 0xF << 20))
            self.uc.reg_write(self.regs.UC_ARM_REG_FPEXC, 0x40000000)
        self.stack_top = core.ram + (1 << 18) - 64
        self._decoded: dict[tuple[int, int], int] = {}

    def write(self, address: int, array: npt.NDArray[Any]) -> None:
        """Copy an array into memory."""
        self.uc.mem_write(address, np.ascontiguousarray(array).tobytes())

    def read(self, address: int, dtype: str, count: int) -> npt.NDArray[Any]:
        """Copy memory into an array."""
        return np.frombuffer(bytes(self.uc.mem_read(address, count * np.dtype(dtype).itemsize)), dtype).copy()

    def call(
        self, symbol: str, *arguments: int, count: bool = False, hook: Any = None, stack: bool = False
    ) -> Call:
        """Call a function with word arguments (the fifth and later go on the stack); return its cost.

        count: count instructions; stack: paint the stack and report what was used; hook: a code hook
        (address, size). Raises `VerificationError` where the code faults or does not come back.
        """
        u, r = self.uc_module, self.regs
        extra = arguments[4:]
        sp = self.stack_top - 8 * ((len(extra) + 1) // 2)
        if self.is_arm:
            names = [r.UC_ARM_REG_R0, r.UC_ARM_REG_R1, r.UC_ARM_REG_R2, r.UC_ARM_REG_R3]
            self.uc.reg_write(r.UC_ARM_REG_SP, sp)
            self.uc.reg_write(r.UC_ARM_REG_LR, _SENTINEL | 1)
        else:
            names = [r.UC_RISCV_REG_A0, r.UC_RISCV_REG_A1, r.UC_RISCV_REG_A2, r.UC_RISCV_REG_A3]
            self.uc.reg_write(r.UC_RISCV_REG_SP, sp)
            self.uc.reg_write(r.UC_RISCV_REG_RA, _SENTINEL)
        for name, value in zip(names, arguments, strict=False):
            self.uc.reg_write(name, value)
        if extra:
            self.uc.mem_write(sp, struct.pack(f"<{len(extra)}I", *extra))
        if stack:
            self.uc.mem_write(sp - _STACK_BYTES, bytes([_PAINT]) * _STACK_BYTES)
        blocks: Counter[tuple[int, int]] = Counter()
        handles = []
        if count or hook is not None:
            self.uc.ctl_flush_tb()
            if count:
                handles.append(
                    self.uc.hook_add(u.UC_HOOK_BLOCK, lambda _, at, size, __: blocks.update([(at, size)]))
                )
            if hook is not None:
                handles.append(self.uc.hook_add(u.UC_HOOK_CODE, lambda _, at, size, __: hook(at, size)))
            self.uc.ctl_flush_tb()
        start = self.image.symbol(symbol) | (1 if self.is_arm else 0)
        try:
            self.uc.emu_start(start, _SENTINEL, timeout=120_000_000)
        except u.UcError as error:
            raise VerificationError(
                f"'{symbol}' faulted on the emulated {self.core.name}: {error}"
            ) from error
        finally:
            for handle in handles:
                self.uc.hook_del(handle)
        pc = self.uc.reg_read(r.UC_ARM_REG_PC if self.is_arm else r.UC_RISCV_REG_PC)
        if pc & ~1 != _SENTINEL:
            raise VerificationError(f"'{symbol}' did not return on the emulated {self.core.name}")
        used = 0
        if stack:
            painted = np.frombuffer(bytes(self.uc.mem_read(sp - _STACK_BYTES, _STACK_BYTES)), np.uint8)
            changed = np.flatnonzero(painted != _PAINT)
            used = _STACK_BYTES - int(changed[0]) if changed.size else 0
        total = sum(n * self._instructions(at, size) for (at, size), n in blocks.items() if at != _SENTINEL)
        return Call(total, used)

    def _instructions(self, address: int, size: int) -> int:
        """Return the number of instructions in a block."""
        key = (address, size)
        if key not in self._decoded:
            code = bytes(self.uc.mem_read(address, size))
            at = n = 0
            while at < size:
                wide = code[at + 1] >> 3 in {29, 30, 31} if self.is_arm else code[at] & 3 == 3
                at += 4 if wide else 2
                n += 1
            self._decoded[key] = n
        return self._decoded[key]

    def buffer(self, index: int) -> int:
        """Return the address of one of four test buffers of 64 KiB."""
        return _BUFFERS + index * 0x10000
