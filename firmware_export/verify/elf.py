"""Read the parts of a 32-bit little-endian ELF file that an emulator and a size report need."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from flocklet.errors import VerificationError

__all__ = ["Image", "Segment", "read_elf"]


@dataclass(frozen=True)
class Segment:
    """Hold one loadable segment: where it runs, where it is stored, and its bytes."""

    virtual: int
    physical: int
    data: bytes
    size: int


@dataclass(frozen=True)
class Image:
    """Hold a linked image.

    Machine (40 ARM, 243 RISC-V), segments, symbols (value, size), sections (name, size, flags).
    """

    machine: int
    entry: int
    segments: tuple[Segment, ...]
    symbols: dict[str, tuple[int, int]]
    undefined: tuple[str, ...]
    sections: dict[str, tuple[int, int]]

    def symbol(self, name: str) -> int:
        """Return the address of a symbol."""
        if name not in self.symbols:
            raise VerificationError(
                f"the image has no symbol '{name}'", remedy="do not strip the image (zig: avoid -Os)"
            )
        return self.symbols[name][0]

    @property
    def flash_bytes(self) -> int:
        """Return the bytes stored in flash: code, constants and initial values."""
        return sum(len(segment.data) for segment in self.segments)

    @property
    def ram_bytes(self) -> int:
        """Return the bytes of static RAM: writable sections, initialised or not."""
        return sum(size for size, flags in self.sections.values() if flags & 3 == 3)


def read_elf(source: Path | bytes) -> Image:
    """Parse an ELF32 file (executable or object); raise `VerificationError` where it is none."""
    data = source if isinstance(source, bytes) else source.read_bytes()
    if data[:6] != b"\x7fELF\x01\x01":
        raise VerificationError("the compiler made no 32-bit little-endian ELF file")
    machine, _, entry, phoff, shoff = struct.unpack_from("<HIIII", data, 18)
    phentsize, phnum, shentsize, shnum, shstrndx = struct.unpack_from("<HHHHH", data, 42)
    segments = []
    for i in range(phnum):
        kind, offset, virtual, physical, filesz, memsz = struct.unpack_from(
            "<IIIIII", data, phoff + i * phentsize
        )
        if kind == 1 and memsz:
            segments.append(Segment(virtual, physical, data[offset : offset + filesz], memsz))
    headers = [struct.unpack_from("<IIIIIIIIII", data, shoff + i * shentsize) for i in range(shnum)]
    names = headers[shstrndx]
    symbols: dict[str, tuple[int, int]] = {}
    undefined = []
    sections: dict[str, tuple[int, int]] = {}
    for header in headers:
        label = _text(data, names[4] + header[0])
        if header[2] & 2:
            sections[label] = (sections.get(label, (0, 0))[0] + header[5], header[2])
        if header[1] != 2:
            continue
        strings = headers[header[6]][4]
        for at in range(header[4], header[4] + header[5], 16):
            name, value, size, info, _, section = struct.unpack_from("<IIIBBH", data, at)
            text = _text(data, strings + name)
            if section == 0 and text:
                undefined.append(text)
            elif text and info & 15 in {0, 1, 2} and not text.startswith("$"):
                symbols[text] = (value & ~1 if info & 15 == 2 and machine == 40 else value, size)
    return Image(machine, entry, tuple(segments), symbols, tuple(undefined), sections)


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode("latin-1")
