"""Draw a few lines into a PNG or SVG file: figures over impressions on a logarithmic axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from flocklet.plots.canvas import Canvas, canvas_for

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


@dataclass(frozen=True, slots=True)
class Series:
    """One line: its name, and x (positive, ascending) and y of its points. Dashed lines lie over the others."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    is_dashed: bool = False


def draw(path: Path, lines: Sequence[Series], *, title: str, x: str) -> None:
    """Write the plot; the suffix decides (.png or .svg). Needs at least one line with one point."""
    frame = _Frame(lines)
    canvas: Canvas = canvas_for(path.suffix, _WIDTH, _HEIGHT)
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
    for number, series in sorted(enumerate(lines), key=lambda pair: pair[1].is_dashed):
        colour = _COLOURS[number % len(_COLOURS)]
        points = [(frame.column(a), frame.row(b)) for a, b in zip(series.x, series.y, strict=True)]
        at = _TOP + 10 + 26 * number
        legend = ((_WIDTH - _RIGHT + 14, at + 7), (_WIDTH - _RIGHT + 38, at + 7))
        for start, end in [*pairwise(points), legend]:
            for x0, y0, x1, y1 in _dashes(start, end) if series.is_dashed else [(*start, *end)]:
                canvas.line(x0, y0, x1, y1, colour, 2)
        canvas.text(_WIDTH - _RIGHT + 46, at, series.name, _BLACK)
    path.write_bytes(canvas.encode())


def _dashes(start: tuple[int, int], end: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Yield the dashes of a line, 5 pixels each."""
    (x0, y0), (x1, y1) = start, end
    pieces = max(1, max(abs(x1 - x0), abs(y1 - y0)) // 5)
    for at in range(0, pieces, 2):
        a, b = at / pieces, min(1.0, (at + 1) / pieces)
        yield (
            round(x0 + a * (x1 - x0)),
            round(y0 + a * (y1 - y0)),
            round(x0 + b * (x1 - x0)),
            round(y0 + b * (y1 - y0)),
        )


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
