"""Draw a few lines into a PNG or SVG file, with nothing but NumPy and zlib.

One plot, one purpose: figures over impressions on a logarithmic axis. PNG text is a built-in 5 x 7 pixel font of the
characters that such a plot needs; other characters are left blank. SVG text is real text.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

__all__ = ["Series", "draw"]

_WIDTH, _HEIGHT = 900, 540
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 210, 46, 60
_COLOURS = (
    (68, 119, 170),
    (238, 102, 119),
    (34, 136, 51),
    (204, 187, 68),
    (170, 51, 119),
    (102, 204, 238),
    (90, 90, 90),
)
_GREY, _LIGHT, _BLACK = (120, 120, 120), (225, 225, 225), (20, 20, 20)

# 5 x 7 pixels a character, seven rows of five bits each, as hexadecimal pairs.
_FONT = {
    "0": "0e11131519110e", "1": "040c040404040e", "2": "0e11010204081f", "3": "1f02040201110e", "4": "02060a121f0202",
    "5": "1f101e0101110e", "6": "0608101e11110e", "7": "1f010204080808", "8": "0e11110e11110e", "9": "0e11110f01020c",
    "a": "00000e010f110f", "b": "10101e1111111e", "c": "00000e1010110e", "d": "01010f1111110f", "e": "00000e111f100e",
    "f": "0609081c080808", "g": "00000f110f010e", "h": "10101611111111", "i": "04000c0404040e", "j": "0200060202120c",
    "k": "10101214181412", "l": "0c04040404040e", "m": "00001a15151515", "n": "00001611111111", "o": "00000e1111110e",
    "p": "00001e111e1010", "q": "00000d130f0101", "r": "00001619101010", "s": "00000e100e011e", "t": "08081c08080906",
    "u": "0000111111130d", "v": "00001111110a04", "w": "0000111115150a", "x": "0000110a040a11", "y": "0000110f01110e",
    "z": "00001f0204081f", "A": "0e11111f111111", "B": "1e11111e11111e", "C": "0e11101010110e", "D": "1e11111111111e",
    "E": "1f10101e10101f", "F": "1f10101e101010", "G": "0e11101711110f", "H": "1111111f111111", "I": "0e04040404040e",
    "M": "111b1515111111", "N": "11191513111111", "P": "1e11111e101010", "R": "1e11111e141211", "S": "0f10100e01011e",
    "T": "1f040404040404", "@": "0e11171517100e", ".": "00000000000c0c", ":": "000c0c000c0c00", "-": "0000001f000000",
    "_": "0000000000001f", "(": "02040808080402", ")": "08040202020408", "/": "01010204081010", "+": "0004041f040400",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Series:
    """One line: its name, and x (positive, ascending) and y of its points."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def draw(path: Path, lines: Sequence[Series], *, title: str, x: str) -> None:
    """Write the plot; the suffix decides (.png or .svg). Needs at least one line with one point."""
    frame = _Frame(lines)
    canvas: _Svg | _Pixels = _Svg() if path.suffix.lower() == ".svg" else _Pixels()
    canvas.text(_LEFT, 14, title, _BLACK)
    canvas.text(_LEFT, _HEIGHT - 22, f"{x} (logarithmic)", _GREY)
    for value in frame.y_ticks:
        at = frame.row(value)
        canvas.line(_LEFT, at, _WIDTH - _RIGHT, at, _LIGHT, 1)
        canvas.text(_LEFT - 58, at - 7, f"{value:.2f}", _GREY)
    for value in frame.x_ticks:
        at = frame.column(value)
        canvas.line(at, _TOP, at, _HEIGHT - _BOTTOM, _LIGHT, 1)
        canvas.text(at - 6 * len(f"{value:.0f}"), _HEIGHT - _BOTTOM + 10, f"{value:.0f}", _GREY)
    canvas.line(_LEFT, _HEIGHT - _BOTTOM, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM, _GREY, 1)
    canvas.line(_LEFT, _TOP, _LEFT, _HEIGHT - _BOTTOM, _GREY, 1)
    for number, series in enumerate(lines):
        colour = _COLOURS[number % len(_COLOURS)]
        points = [(frame.column(a), frame.row(b)) for a, b in zip(series.x, series.y, strict=True)]
        for (x0, y0), (x1, y1) in pairwise(points):
            canvas.line(x0, y0, x1, y1, colour, 2)
        at = _TOP + 10 + 26 * number
        canvas.line(_WIDTH - _RIGHT + 14, at + 7, _WIDTH - _RIGHT + 38, at + 7, colour, 3)
        canvas.text(_WIDTH - _RIGHT + 46, at, series.name, _BLACK)
    path.write_bytes(canvas.encode())


class _Frame:
    def __init__(self, lines: Sequence[Series]) -> None:
        xs = [value for series in lines for value in series.x]
        ys = [value for series in lines for value in series.y]
        self._low, self._high = max(min(xs), 1e-9), max(max(xs), min(xs) * 1.01, 1e-9)
        step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 1e9) if (max(ys) - min(ys)) / s <= 8)
        self._bottom = np.floor(min(ys) / step) * step
        self._top = max(np.ceil(max(ys) / step) * step, self._bottom + step)
        self.y_ticks = [float(v) for v in np.arange(self._bottom, self._top + step / 2, step)]
        decades = [float(m * 10**e) for e in range(-9, 12) for m in (1, 2, 5)]
        self.x_ticks = [v for v in decades if self._low <= v <= self._high]

    def column(self, value: float) -> int:
        share = np.log(max(value, 1e-9) / self._low) / np.log(self._high / self._low)
        return round(float(_LEFT + share * (_WIDTH - _RIGHT - _LEFT)))

    def row(self, value: float) -> int:
        share = (value - self._bottom) / (self._top - self._bottom)
        return round(float(_HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)))


class _Pixels:
    def __init__(self) -> None:
        self._image: NDArray[np.uint8] = np.full((_HEIGHT, _WIDTH, 3), 255, np.uint8)

    def line(self, x0: int, y0: int, x1: int, y1: int, colour: tuple[int, int, int], width: int) -> None:
        count = 2 * max(abs(x1 - x0), abs(y1 - y0)) + 1
        xs = np.linspace(x0, x1, count).round().astype(int)
        ys = np.linspace(y0, y1, count).round().astype(int)
        for dx in range(width):
            for dy in range(width):
                self._image[np.clip(ys + dy, 0, _HEIGHT - 1), np.clip(xs + dx, 0, _WIDTH - 1)] = colour

    def text(self, x: int, y: int, text: str, colour: tuple[int, int, int]) -> None:
        for place, character in enumerate(text):
            rows = bytes.fromhex(_FONT.get(character, "00" * 7))
            bits = np.unpackbits(np.frombuffer(rows, np.uint8)[:, None], axis=1)[:, 3:]
            down, right = np.nonzero(np.kron(bits, np.ones((2, 2), np.uint8)))
            down, right = down + y, right + x + 12 * place
            inside = (down < _HEIGHT) & (right < _WIDTH) & (down >= 0) & (right >= 0)
            self._image[down[inside], right[inside]] = colour

    def encode(self) -> bytes:
        rows = np.concatenate([np.zeros((_HEIGHT, 1), np.uint8), self._image.reshape(_HEIGHT, -1)], axis=1)
        header = struct.pack(">IIBBBBB", _WIDTH, _HEIGHT, 8, 2, 0, 0, 0)
        chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )


class _Svg:
    def __init__(self) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}">',
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        ]

    def line(self, x0: int, y0: int, x1: int, y1: int, colour: tuple[int, int, int], width: int) -> None:
        self._parts.append(
            f'<line x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}" stroke="rgb{colour}" stroke-width="{width}"/>'
        )

    def text(self, x: int, y: int, text: str, colour: tuple[int, int, int]) -> None:
        self._parts.append(
            f'<text x="{x}" y="{y + 13}" fill="rgb{colour}" font-family="monospace" font-size="15">{escape(text)}</text>'
        )

    def encode(self) -> bytes:
        return ("\n".join([*self._parts, "</svg>"]) + "\n").encode()
