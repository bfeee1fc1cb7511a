"""Draw flights into one PNG or SVG file: from the side, from above, and the error over time; and learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flocklet.models.flight.judge.evaluate import Track
from flocklet.models.flight.judge.verdict import Verdict
from flocklet.plots.canvas import Canvas, canvas_for

__all__ = ["draw_curve", "draw_flights"]

_WIDTH, _HEIGHT = 1200, 900
_CURVE_WIDTH, _CURVE_HEIGHT = 900, 400
_COLOURS = ((68, 119, 170), (238, 102, 119), (34, 136, 51), (170, 51, 119), (204, 120, 30))
_GREY, _LIGHT, _BLACK, _TARGET = (120, 120, 120), (225, 225, 225), (20, 20, 20), (170, 170, 170)
_POINTS = 400
Points = NDArray[np.float64]
Box = tuple[int, int, int, int]


def _polyline(canvas: Canvas, points: Points, colour: tuple[int, int, int], width: int) -> None:
    """Draw the finite parts of a line of points (n, 2) in pixels, thinned to what can be seen."""
    step = max(1, -(-len(points) // _POINTS))
    for (x0, y0), (x1, y1) in pairwise(points[::step]):
        if np.isfinite([x0, y0, x1, y1]).all():
            canvas.line(round(x0), round(y0), round(x1), round(y1), colour, width)


class _Panel:
    """A rectangle with ranges of x and y, ticks and a title; maps values to pixels."""

    def __init__(
        self, canvas: Canvas, box: Box, x: tuple[float, float], y: tuple[float, float], title: str
    ) -> None:
        self.canvas, self.box, self.x, self.y = canvas, box, x, y
        left, top, right, bottom = box
        canvas.text(left, top - 30, title, _BLACK)
        for value in _ticks(*y):
            row = round(self.map(np.array([[x[0], value]]))[0, 1])
            canvas.line(left, row, right, row, _LIGHT, 1)
            canvas.text(left - 64, row - 7, f"{value:g}", _GREY)
        for value in _ticks(*x):
            column = round(self.map(np.array([[value, y[0]]]))[0, 0])
            canvas.line(column, top, column, bottom, _LIGHT, 1)
            canvas.text(column - 6 * len(f"{value:g}"), bottom + 8, f"{value:g}", _GREY)
        for a, b, c, d in ((left, bottom, right, bottom), (left, top, left, bottom)):
            canvas.line(a, b, c, d, _GREY, 1)

    def map(self, values: Points) -> Points:
        """Return pixels (n, 2) for values (n, 2)."""
        left, top, right, bottom = self.box
        across = left + (values[:, 0] - self.x[0]) / (self.x[1] - self.x[0]) * (right - left)
        down = bottom - (values[:, 1] - self.y[0]) / (self.y[1] - self.y[0]) * (bottom - top)
        return np.stack([across, down], axis=1)

    def draw(self, values: Points, colour: tuple[int, int, int], width: int = 2) -> None:
        """Draw a line of values (n, 2)."""
        _polyline(self.canvas, self.map(values), colour, width)


def _ticks(low: float, high: float) -> list[float]:
    span = high - low
    step = next(s * 10.0**e for e in range(-6, 9) for s in (1, 2, 5) if span / (s * 10.0**e) <= 6)
    return [float(round(v, 9)) for v in np.arange(np.ceil(low / step) * step, high + step * 1e-6, step)]


def _turned(points: Points) -> Points:
    """Return points (n, 3) as seen from the front left and above, (n, 2): orthographic, 30 degrees up."""
    x, y, z = points.T
    turn, up = np.radians(-35.0), np.radians(30.0)
    across = x * np.cos(turn) - y * np.sin(turn)
    away = x * np.sin(turn) + y * np.cos(turn)
    return np.stack([across, away * np.sin(up) + z * np.cos(up)], axis=1)


def draw_flights(path: Path, verdict: Verdict) -> None:
    """Write the picture of a verdict whose flights were recorded; the suffix decides (.png or .svg)."""
    tracks = {**verdict.eights} or {**verdict.fast_eights}
    canvas = canvas_for(path.suffix, _WIDTH, _HEIGHT)
    canvas.text(30, 14, f"{verdict.policy} on {verdict.vehicle}", _BLACK)
    space = _Panel(
        canvas, (90, 90, 580, 400), (-1.5, 1.5), (-0.95, 0.95), "in space (m), seen from 30 degrees up"
    )
    above = _Panel(canvas, (690, 90, 1170, 400), (-1.5, 1.5), (-0.93, 0.93), "from above: x, y (m)")
    tallest, longest = 0.05, 1.0
    for track in tracks.values():
        far = _distance(track)
        tallest = max(tallest, float(np.nanmax(far, initial=0.0)))
        longest = max(longest, len(far) * track.flight.dt_s)
    tallest = min(tallest * 1.1, 1.6)
    error = _Panel(
        canvas, (90, 490, 580, 830), (0, longest), (0, tallest), "figure-eight: error (m) over time (s)"
    )
    for number, (period, track) in enumerate(tracks.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        flight = track.flight
        if flight.bodies.shape[1] == 0:
            continue
        flown, goal = flight.bodies[:, 0, 0:3], flight.targets[:, 0]
        if number == 0:
            space.draw(_turned(goal), _TARGET, 5)
            above.draw(goal[:, :2], _TARGET, 5)
        space.draw(_turned(flown), colour)
        above.draw(flown[:, :2], colour)
        times = (np.arange(len(flown)) + 1) * flight.dt_s
        error.draw(np.stack([times, _distance(track)], axis=1), colour)
        figures = track.summary()
        told = "lost" if figures["rmse_m"] is None else f"{figures['rmse_m']:.3f} m"
        canvas.line(110 + 230 * number, 870, 140 + 230 * number, 870, colour, 3)
        canvas.text(150 + 230 * number, 863, f"{period:g} s: {told}"[:14], _BLACK)
    _draw_hovers(canvas, verdict)
    path.write_bytes(canvas.encode())


def _distance(track: Track) -> Points:
    """Return the distance of the recorded flight from its target, (steps,) m."""
    flight = track.flight
    if flight.bodies.shape[1] == 0:
        return np.zeros(0)
    far: Points = np.linalg.norm(flight.bodies[:, 0, 0:3] - flight.targets[:, 0], axis=1)
    return far


def _draw_hovers(canvas: Canvas, verdict: Verdict) -> None:
    flight = verdict.hover.flight
    far = np.linalg.norm(flight.bodies[:, :, 0:3], axis=2)
    times = (np.arange(len(far)) + 1) * flight.dt_s
    top = max(0.3, min(1.1 * float(np.nanmax(far, initial=0.1)), 1.6))
    panel = _Panel(
        canvas,
        (690, 490, 1170, 830),
        (0, float(max(times[-1], 1))),
        (0, top),
        "hover: distance (m) over time (s)",
    )
    for row in range(min(far.shape[1], 8)):
        panel.draw(np.stack([times, far[:, row]], axis=1), _COLOURS[row % len(_COLOURS)], 1)


def draw_curve(
    path: Path, panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], *, x: str, title: str
) -> None:
    """Write learning curves, one panel above the other: y label -> name -> points (x, value).

    The suffix decides (.png or .svg). `title` is drawn on top; the names stand on the right.
    """
    canvas = canvas_for(path.suffix, _CURVE_WIDTH, 80 + _CURVE_HEIGHT * len(panels))
    canvas.text(100, 14, title, _BLACK)
    for place, (y, curves) in enumerate(panels.items()):
        points = {name: np.array(curve, float).reshape(-1, 2) for name, curve in curves.items()}
        every = np.concatenate([p for p in points.values() if len(p)] or [np.zeros((1, 2))])
        high = np.nanmax(every, axis=0)
        low = np.minimum(np.nanmin(every, axis=0), 0)
        high = np.where(high > low, high, low + 1)
        top = 80 + _CURVE_HEIGHT * place
        box = (100, top, 690, top + _CURVE_HEIGHT - 90)
        x_range, y_range = (float(low[0]), float(high[0])), (float(low[1]), float(high[1] * 1.05))
        panel = _Panel(canvas, box, x_range, y_range, f"{y} over {x}")
        for number, (name, curve) in enumerate(points.items()):
            colour = _COLOURS[number % len(_COLOURS)]
            panel.draw(curve, colour)
            canvas.line(710, top + 20 + 26 * number, 734, top + 20 + 26 * number, colour, 3)
            canvas.text(742, top + 13 + 26 * number, name[:12], _BLACK)
    path.write_bytes(canvas.encode())
