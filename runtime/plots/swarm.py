"""Draw what a swarm did as SVG, by hand: accuracy against bytes and time, and the attack x aggregator heat map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["curves", "heat_map"]

_FONT = 'font-family="sans-serif" font-size="12"'
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#000000")  # Okabe and Ito 2008
_DASHES = ("", "8 3", "2 3", "8 3 2 3")
_VIRIDIS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


def curves(lines: Mapping[str, Sequence[tuple[float, float, float]]], *, title: str = "") -> str:
    """Return two panels side by side: accuracy against megabytes, and against seconds.

    `lines` maps a label to points (seconds, bytes, accuracy).
    """
    left = {name: [(byte / 1e6, accuracy) for _, byte, accuracy in points] for name, points in lines.items()}
    right = {name: [(second, accuracy) for second, _, accuracy in points] for name, points in lines.items()}
    body = [_panel(left, 60, "bytes sent (MB)"), _panel(right, 440, "time (s)")]
    for number, name in enumerate(lines):
        y = 325 + 16 * number  # below the panels: inside, it would hide a curve
        body.append(f'<line x1="60" x2="90" y1="{y - 4}" y2="{y - 4}" {_pen(number)}/>')
        body.append(f'<text x="97" y="{y}">{escape(name)}</text>')
    body.append(f'<text x="60" y="22" font-size="14">{escape(title)}</text>')
    return _svg(800, 325 + 16 * len(lines), body)


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Mapping[tuple[str, str], float],
    *,
    title: str = "",
    notes: Mapping[tuple[str, str], str] | None = None,
) -> str:
    """Return a table of accuracies in [0, 1] on a scale from dark (low) to bright (high) that the colour-blind can read.

    The best of each row is framed, the first column (the control) is set apart; `notes` are small second lines.
    """
    cell_w, cell_h, x0, y0, gap = 52, 32, 130, 130, 10
    low, high = _range([values[row, column] for row in rows for column in columns])
    body = [f'<text x="10" y="22" font-size="15" font-weight="bold">{escape(title)}</text>']
    lefts = [x0 + j * cell_w + (gap if j else 0) for j in range(len(columns))]
    for column, left in zip(columns, lefts, strict=True):
        x, y = left + cell_w / 2, y0 - 8
        body.append(f'<text x="{x}" y="{y}" transform="rotate(-45 {x} {y})">{escape(column)}</text>')
    for i, row in enumerate(rows):
        y = y0 + i * cell_h
        best = max(values[row, column] for column in columns)
        body.append(f'<text x="{x0 - 8}" y="{y + 20}" text-anchor="end">{escape(row)}</text>')
        cells, words, frames = [], [], []
        for column, left in zip(columns, lefts, strict=True):
            value, note = values[row, column], (notes or {}).get((row, column), "")
            share = (value - low) / (high - low)
            ink, middle = "" if share >= 0.62 else ' fill="#fff"', left + cell_w // 2
            is_best = value >= best - 0.0005
            cells.append(f'<path d="M{left} {y}h{cell_w}v{cell_h}H{left}z" fill="{_shade(share)}"/>')
            weight = ' font-weight="bold"' if is_best else ""
            words.append(
                f'<text x="{middle}" y="{y + (14 if note else 20)}"{ink}{weight}>{_short(value)}</text>'
            )
            if note:
                words.append(f'<text x="{middle}" y="{y + 27}" font-size="10"{ink}>{escape(note)}</text>')
            if is_best:
                frames.append(
                    f'<rect x="{left + 2}" y="{y + 2}" width="{cell_w - 4}" height="{cell_h - 4}" fill="none" '
                    'stroke="#d1006c" stroke-width="3"/>'
                )
        body += ['<g stroke="#fff">', *cells, '</g><g text-anchor="middle">', *words, "</g>", *frames]
    bottom = y0 + len(rows) * cell_h
    body.append(_scale(x0, bottom + 18, low, high, bool(notes)))
    return _svg(max(x0 + gap + len(columns) * cell_w + 50, 640), bottom + 62, body)


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Return the tenths that hold all values."""
    low = int(10 * min(values, default=0.0) + 1e-9) / 10
    high = -int(-10 * max(values, default=1.0) + 1e-9 - 1) / 10
    return low, max(min(high, 1.0), low + 0.1)


def _scale(x: float, y: float, low: float, high: float, has_notes: bool) -> str:
    steps, width = 40, 5
    parts = [
        f'<rect x="{x + i * width}" y="{y}" width="{width + 1}" height="14" fill="{_shade(i / (steps - 1))}"/>'
        for i in range(steps)
    ]
    for share in (0.0, 0.5, 1.0):
        at, value = x + share * steps * width, low + share * (high - low)
        parts.append(f'<text x="{at}" y="{y + 28}" text-anchor="middle">{_short(value, 2)}</text>')
    at = x + steps * width + 24
    parts.append(
        f'<rect x="{at}" y="{y}" width="24" height="14" fill="none" stroke="#d1006c" stroke-width="3"/>'
        f'<text x="{at + 32}" y="{y + 12}">best of the row{"; small: attack success" if has_notes else ""}</text>'
    )
    return "".join(parts)


def _short(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}".removeprefix("0") if value < 1 else f"{value:.{digits - 1}f}"


def _panel(lines: Mapping[str, Sequence[tuple[float, float]]], x0: float, label: str) -> str:
    width, height, y0 = 320.0, 230.0, 40.0
    step = _step(max((x for points in lines.values() for x, _ in points), default=1.0) or 1.0)
    top = max(max((x for points in lines.values() for x, _ in points), default=1.0), step)
    parts = [f'<rect x="{x0}" y="{y0}" width="{width}" height="{height}" fill="none" stroke="#999"/>']
    for tick in range(6):
        y = y0 + height * (1 - tick / 5)
        parts.append(f'<line x1="{x0}" x2="{x0 + width}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{x0 - 6}" y="{y + 4}" text-anchor="end">{tick / 5:.1f}</text>')
    for tick in range(int(top / step + 1e-9) + 1):
        x = x0 + width * tick * step / top
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y0 + height}" y2="{y0 + height + 4}" stroke="#999"/>'
        )
        parts.append(
            f'<text x="{x:.1f}" y="{y0 + height + 18}" text-anchor="middle">{round(tick * step, 9):g}</text>'
        )
    for number, points in enumerate(lines.values()):
        path = " ".join(f"{x0 + width * x / top:.1f},{y0 + height * (1 - y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" {_pen(number)}/>')
    middle = y0 + height / 2
    parts.append(
        f'<text x="{x0 + width / 2}" y="{y0 + height + 38}" text-anchor="middle">{escape(label)}</text>'
        f'<text x="{x0 - 36}" y="{middle}" text-anchor="middle" transform="rotate(-90 {x0 - 36} {middle})">accuracy</text>'
    )
    return "".join(parts)


def _pen(number: int) -> str:
    """Return the stroke of the n-th line: its colour, and dashes for those who see no colours."""
    dashes = _DASHES[number % len(_DASHES)]
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'stroke="{_COLOURS[number % len(_COLOURS)]}" stroke-width="2"{dashed}'


def _step(top: float) -> float:
    """Return 1, 2 or 5 times a power of ten that parts [0, top] into three to six."""
    power = 10.0 ** math.floor(math.log10(top))
    return next(m * power for m in (0.2, 0.5, 1.0, 2.0) if top / (m * power) <= 6)


def _shade(share: float) -> str:
    """Return viridis at `share`: even steps of lightness, no red against green (Smith and van der Walt 2015)."""
    at = min(max(share, 0.0), 1.0) * (len(_VIRIDIS) - 1)
    first = min(int(at), len(_VIRIDIS) - 2)
    pairs = zip(_VIRIDIS[first], _VIRIDIS[first + 1], strict=True)
    return "#" + "".join(f"{round(a + (b - a) * (at - first)):02x}" for a, b in pairs)


def _svg(width: float, height: float, body: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" {_FONT}>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(body)}</svg>\n'
    )
