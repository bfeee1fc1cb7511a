"""Draw what a swarm did as SVG, by hand: accuracy against bytes and time, and the attack x aggregator heat map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["curves", "heat_map"]

_FONT = 'font-family="sans-serif" font-size="12"'
_COLOURS = ("#1b6ca8", "#d1495b", "#2e8b57", "#8a5a9e", "#c77f1e", "#4a4a4a")


def curves(lines: Mapping[str, Sequence[tuple[float, float, float]]], *, title: str = "") -> str:
    """Return two panels side by side: accuracy against megabytes, and against seconds.

    `lines` maps a label to points (seconds, bytes, accuracy).
    """
    left = {name: [(byte / 1e6, accuracy) for _, byte, accuracy in points] for name, points in lines.items()}
    right = {name: [(second, accuracy) for second, _, accuracy in points] for name, points in lines.items()}
    body = [_panel(left, 60, "bytes sent (MB)"), _panel(right, 440, "time (s)")]
    for number, name in enumerate(lines):
        y = 325 + 16 * number  # below the panels: inside, it would hide a curve
        body.append(
            f'<rect x="60" y="{y - 9}" width="10" height="10" fill="{_COLOURS[number % len(_COLOURS)]}"/>'
        )
        body.append(f'<text x="75" y="{y}">{escape(name)}</text>')
    body.append(f'<text x="60" y="22" font-size="14">{escape(title)}</text>')
    return _svg(800, 325 + 16 * len(lines), body)


def heat_map(
    rows: Sequence[str], columns: Sequence[str], values: Mapping[tuple[str, str], float], *, title: str = ""
) -> str:
    """Return a table of accuracies in [0, 1], dark red (low) to dark green (high); the best of each row is bold."""
    cell_w, cell_h, x0, y0 = 58, 26, 110, 120
    body = [f'<text x="10" y="20" font-size="14">{escape(title)}</text>']
    for j, column in enumerate(columns):
        x, y = x0 + j * cell_w + cell_w / 2, y0 - 8
        body.append(f'<text x="{x}" y="{y}" transform="rotate(-40 {x} {y})">{escape(column)}</text>')
    for i, row in enumerate(rows):
        y = y0 + i * cell_h
        best = max(values[row, column] for column in columns)
        body.append(f'<text x="{x0 - 8}" y="{y + 17}" text-anchor="end">{escape(row)}</text>')
        for j, column in enumerate(columns):
            value, x = values[row, column], x0 + j * cell_w
            ink = "#fff" if value < 0.25 or value > 0.85 else "#000"
            weight = ' font-weight="bold"' if value >= best - 0.0005 else ""
            body.append(
                f'<rect x="{x}" y="{y}" width="{cell_w}" height="{cell_h}" fill="{_shade(value)}" stroke="#fff"/>'
            )
            body.append(
                f'<text x="{x + cell_w / 2}" y="{y + 17}" text-anchor="middle" fill="{ink}"{weight}>{value:.3f}</text>'
            )
    return _svg(x0 + len(columns) * cell_w + 60, y0 + len(rows) * cell_h + 20, body)


def _panel(lines: Mapping[str, Sequence[tuple[float, float]]], x0: float, label: str) -> str:
    width, height, y0 = 320.0, 230.0, 40.0
    top = max((x for points in lines.values() for x, _ in points), default=1.0) or 1.0
    parts = [f'<rect x="{x0}" y="{y0}" width="{width}" height="{height}" fill="none" stroke="#999"/>']
    for tick in range(6):
        y = y0 + height * (1 - tick / 5)
        parts.append(f'<line x1="{x0}" x2="{x0 + width}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{x0 - 6}" y="{y + 4}" text-anchor="end">{tick / 5:.1f}</text>')
        x = x0 + width * tick / 5
        parts.append(f'<text x="{x}" y="{y0 + height + 16}" text-anchor="middle">{top * tick / 5:.3g}</text>')
    for number, points in enumerate(lines.values()):
        path = " ".join(f"{x0 + width * x / top:.1f},{y0 + height * (1 - y):.1f}" for x, y in points)
        colour = _COLOURS[number % len(_COLOURS)]
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
    parts.append(
        f'<text x="{x0 + width / 2}" y="{y0 + height + 36}" text-anchor="middle">{escape(label)}</text>'
    )
    return "".join(parts)


def _shade(value: float) -> str:
    low, middle, high = (165, 30, 45), (250, 240, 190), (25, 110, 60)
    share = min(max(value, 0.0), 1.0)
    first, second, at = (low, middle, share / 0.6) if share < 0.6 else (middle, high, (share - 0.6) / 0.4)
    return "#" + "".join(f"{round(a + (b - a) * at):02x}" for a, b in zip(first, second, strict=True))


def _svg(width: float, height: float, body: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" {_FONT}>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(body)}</svg>\n'
    )
