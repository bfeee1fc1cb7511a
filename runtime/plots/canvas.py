"""A canvas for lines and text that becomes a PNG or an SVG file, with nothing but NumPy and zlib.

PNG text is a built-in 5 x 7 pixel font of the characters that plots need; other characters are left blank. SVG text is
real text.
"""

from __future__ import annotations

import struct
import zlib
from typing import Protocol
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

__all__ = ["Canvas", "Pixels", "Svg", "canvas_for"]

Colour = tuple[int, int, int]

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
    "J": "0702020202120c", "K": "11121418141211", "L": "1010101010101f", "O": "0e11111111110e", "Q": "0e11111115120d",
    "U": "1111111111110e", "V": "11111111110a04", "W": "1111111515150a", "X": "11110a040a1111", "Y": "1111110a040404",
    "Z": "1f01020408101f", ",": "00000000040408", "=": "00001f001f0000", "%": "18190204081303",
}  # fmt: skip


class Canvas(Protocol):
    """What can be drawn on; pixels count from the top left corner."""

    def line(self, x0: int, y0: int, x1: int, y1: int, colour: Colour, width: int) -> None:
        """Draw a line."""
        ...

    def text(self, x: int, y: int, text: str, colour: Colour) -> None:
        """Write text to the right of and below a point."""
        ...

    def encode(self) -> bytes:
        """Return the file."""
        ...


def canvas_for(suffix: str, width: int, height: int) -> Canvas:
    """Return a canvas of a file's suffix: SVG for `.svg`, else PNG."""
    return Svg(width, height) if suffix.lower() == ".svg" else Pixels(width, height)


class Pixels:
    """A PNG file."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._image: NDArray[np.uint8] = np.full((height, width, 3), 255, np.uint8)

    def line(self, x0: int, y0: int, x1: int, y1: int, colour: Colour, width: int) -> None:
        """Draw a line."""
        count = 2 * max(abs(x1 - x0), abs(y1 - y0)) + 1
        xs = np.linspace(x0, x1, count).round().astype(int)
        ys = np.linspace(y0, y1, count).round().astype(int)
        for dx in range(width):
            for dy in range(width):
                self._image[np.clip(ys + dy, 0, self.height - 1), np.clip(xs + dx, 0, self.width - 1)] = (
                    colour
                )

    def text(self, x: int, y: int, text: str, colour: Colour) -> None:
        """Write text."""
        for place, character in enumerate(text):
            rows = bytes.fromhex(_FONT.get(character, "00" * 7))
            bits = np.unpackbits(np.frombuffer(rows, np.uint8)[:, None], axis=1)[:, 3:]
            down, right = np.nonzero(np.kron(bits, np.ones((2, 2), np.uint8)))
            down, right = down + y, right + x + 12 * place
            inside = (down < self.height) & (right < self.width) & (down >= 0) & (right >= 0)
            self._image[down[inside], right[inside]] = colour

    def encode(self) -> bytes:
        """Return the file."""
        rows = np.concatenate(
            [np.zeros((self.height, 1), np.uint8), self._image.reshape(self.height, -1)], axis=1
        )
        header = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )


class Svg:
    """An SVG file."""

    def __init__(self, width: int, height: int) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">',
            f'<rect width="{width}" height="{height}" fill="white"/>',
        ]

    def line(self, x0: int, y0: int, x1: int, y1: int, colour: Colour, width: int) -> None:
        """Draw a line."""
        self._parts.append(
            f'<line x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}" stroke="rgb{colour}" stroke-width="{width}"/>'
        )

    def text(self, x: int, y: int, text: str, colour: Colour) -> None:
        """Write text."""
        self._parts.append(
            f'<text x="{x}" y="{y + 13}" fill="rgb{colour}" font-family="monospace" font-size="15">{escape(text)}</text>'
        )

    def encode(self) -> bytes:
        """Return the file."""
        return ("\n".join([*self._parts, "</svg>"]) + "\n").encode()
