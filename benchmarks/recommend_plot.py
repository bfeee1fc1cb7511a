"""Draw benchmarks/recommend.py's plot by hand: nDCG@10 and sybil slots against the attackers, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

COLOURS = {"defended": "#1b6ca8", "open": "#c8553d", "popularity": "#8a8a8a", "published walk": "#c9a227"}
LABELS = {
    "defended": "default, trust used",
    "open": "default, open to everybody",
    "popularity": "popularity",
    "published walk": "published walk",
}
ORDER = ("none", "10% x 5", "30% x 5", "10% x 50", "10% x 5, copying the victim",
         "10% x 5, copying, sybils shared by two attackers", "10% x 5, copying half, sybils shared by two")  # fmt: skip
TICKS = ("no attack", "10% × 5", "30% × 5", "10% × 50", "10% × 5 copying", "… and shared", "… half, shared")
WIDTH, HEIGHT, TOP, BOTTOM = 400, 300, 48, 64


def attack_plot(rows: Sequence[dict[str, Any]]) -> str:
    """Return the SVG text of two panels side by side."""
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 940 {HEIGHT + TOP + BOTTOM + 44}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    out += _panel(rows, 60, "nDCG@10 of honest people", "ndcg@10", "ndcg_interval", 0.4, 0.1)
    out += _panel(rows, 520, "Sybil items in the top 10 (of 3)", "slots", "slots_interval", 3.0, 1.0)
    shown = [item for item in LABELS.items() if any(row["model"] == item[0] for row in rows)]
    for number, (name, label) in enumerate(shown):
        x, y = 60 + number * 220, TOP + HEIGHT + BOTTOM + 22
        out.append(
            f'<line x1="{x}" y1="{y}" x2="{x + 22}" y2="{y}" stroke="{COLOURS[name]}" stroke-width="3"/>'
        )
        out.append(f'<text x="{x + 28}" y="{y + 4}">{label}</text>')
    return "\n".join([*out, "</svg>\n"])


def _panel(
    rows: Sequence[dict[str, Any]], left: int, title: str, key: str, interval: str, most: float, step: float
) -> list[str]:
    out = [f'<text x="{left}" y="{TOP - 18}" font-size="15" font-weight="bold">{title}</text>']
    for tick in range(round(most / step) + 1):
        y = _y(tick * step, most)
        out.append(f'<line x1="{left}" y1="{y}" x2="{left + WIDTH}" y2="{y}" stroke="#dddddd"/>')
        out.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{tick * step:g}</text>')
    for place, label in enumerate(TICKS):
        x = _x(left, place)
        out.append(f'<text x="{x}" y="{TOP + HEIGHT + 18}" text-anchor="end" '
                   f'transform="rotate(-28 {x} {TOP + HEIGHT + 18})">{label}</text>')  # fmt: skip
    for shift, name in enumerate(LABELS):
        dots = []
        for place, case in enumerate(ORDER):
            row = next((r for r in rows if r["attack"] == case and r["model"] == name), None)
            if row is None:
                continue
            x = _x(left, place) + (shift - 1.5) * 5
            low, high = (min(max(v, 0.0), most) for v in row[interval])
            out.append(f'<line x1="{x}" y1="{_y(low, most)}" x2="{x}" y2="{_y(high, most)}" '
                       f'stroke="{COLOURS[name]}" stroke-opacity="0.5" stroke-width="3"/>')  # fmt: skip
            dots.append((x, _y(min(row[key], most), most)))
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)
        out.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[name]}" stroke-width="1.5"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{COLOURS[name]}"/>' for x, y in dots]
    return out


def _x(left: int, place: int) -> float:
    return left + 30 + place * (WIDTH - 60) / (len(ORDER) - 1)


def _y(value: float, most: float) -> float:
    return round(TOP + HEIGHT * (1 - value / most), 1)
