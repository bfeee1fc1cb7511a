"""Write a flight as one HTML page that replays it in any browser: a canvas, no network, nothing to install."""

from __future__ import annotations

import json
from html import escape
from typing import Any

import numpy as np

from flocklet.models.flight.judge.verdict import Verdict
from flocklet.models.flight.sim.control_loop import Flight

__all__ = ["replay_page"]

_FRAME_S = 0.02

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>@TITLE@</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body { font: 15px system-ui, sans-serif; margin: 1em; color: #222; background: #fff }
canvas { width: 100%; max-width: 960px; aspect-ratio: 16 / 10; border: 1px solid #ccc; touch-action: none; display: block }
p { margin: .5em 0; max-width: 960px } input[type=range] { width: min(60%, 560px); vertical-align: middle }
</style></head><body>
<p><b>@TITLE@</b> (simulated; nothing flew for real)</p>
<canvas id="c" width="1920" height="1200"></canvas>
<p><select id="which"></select> <button id="play">pause</button>
<input id="time" type="range" min="0" value="0"> <span id="clock"></span>
<select id="speed"><option value="0.25">1/4 speed</option><option value="1" selected>real time</option>
<option value="2">2 x</option></select></p>
<p>Drag to turn. Grey: target. Blue: flown. The bars show the four motor commands.</p>
<script>
const FLIGHTS = @DATA@;
const canvas = document.getElementById("c"), g = canvas.getContext("2d");
const which = document.getElementById("which"), play = document.getElementById("play");
const time = document.getElementById("time"), clock = document.getElementById("clock");
const speed = document.getElementById("speed");
let turn = -0.6, up = 0.5, flight = FLIGHTS[0], frame = 0, playing = true, before = null, dragged = null;
FLIGHTS.forEach((f, i) => {
  const o = document.createElement("option"); o.value = i; o.textContent = f.name; which.appendChild(o); });
function place(p) {
  const x = p[0] * Math.cos(turn) - p[1] * Math.sin(turn), d = p[0] * Math.sin(turn) + p[1] * Math.cos(turn);
  const y = d * Math.sin(up) + p[2] * Math.cos(up), k = canvas.width / 3.6;
  return [canvas.width / 2 + x * k, canvas.height / 2 - y * k];
}
function line(points, colour, width) {
  g.beginPath(); g.strokeStyle = colour; g.lineWidth = width; let started = false;
  for (const p of points) { if (!p) { started = false; continue; }
    const [x, y] = place(p); if (started) g.lineTo(x, y); else g.moveTo(x, y); started = true; }
  g.stroke();
}
function rotate(q, v) {
  const [w, x, y, z] = q, [a, b, c] = v;
  const s = 2 * (y * c - z * b), t = 2 * (z * a - x * c), u = 2 * (x * b - y * a);
  return [a + w * s + y * u - z * t, b + w * t + z * s - x * u, c + w * u + x * t - y * s];
}
function draw() {
  g.clearRect(0, 0, canvas.width, canvas.height);
  for (let i = -4; i <= 4; i++) {
    line([[i / 4, -1, -0.5], [i / 4, 1, -0.5]], "#e6e6e6", 2); line([[-1, i / 4, -0.5], [1, i / 4, -0.5]], "#e6e6e6", 2); }
  line(flight.target, "#b5b5b5", 6);
  const now = Math.min(Math.floor(frame), flight.p.length - 1);
  line(flight.p.slice(0, now + 1), "#4477aa", 4);
  const p = flight.p[now], q = flight.q[now];
  if (p) {
    const s = 0.09, tips = [[s, -s, 0], [-s, -s, 0], [-s, s, 0], [s, s, 0]].map(v => rotate(q, v).map((c, i) => c + p[i]));
    tips.forEach((tip, i) => { line([p, tip], "#222", 8);
      const ring = []; for (let k = 0; k <= 16; k++) { const a = k * Math.PI / 8;
        ring.push(rotate(q, [0.05 * Math.cos(a), 0.05 * Math.sin(a), 0]).map((c, j) => c + tip[j])); }
      line(ring, i === 0 || i === 3 ? "#ee6677" : "#228833", 5); });
  } else { g.fillStyle = "#c00"; g.font = "48px sans-serif"; g.fillText("lost", 60, 90); }
  const a = flight.a[now];
  if (a) a.forEach((v, i) => { g.fillStyle = "#ccc"; g.fillRect(60 + 60 * i, canvas.height - 260, 40, 200);
    g.fillStyle = "#4477aa"; const h = 100 * (v + 1); g.fillRect(60 + 60 * i, canvas.height - 60 - h, 40, h); });
  clock.textContent = (now * flight.dt).toFixed(2) + " s";
  time.value = now;
}
function choose(i) { flight = FLIGHTS[i]; frame = 0; time.max = flight.p.length - 1; draw(); }
function tick(t) {
  if (before !== null && playing) { frame += (t - before) / 1000 / flight.dt * Number(speed.value);
    if (frame >= flight.p.length) frame = 0; draw(); }
  before = t; requestAnimationFrame(tick);
}
which.onchange = () => choose(Number(which.value));
play.onclick = () => { playing = !playing; play.textContent = playing ? "pause" : "play"; };
time.oninput = () => { frame = Number(time.value); draw(); };
canvas.onpointerdown = e => { dragged = [e.clientX, e.clientY]; canvas.setPointerCapture(e.pointerId); };
canvas.onpointermove = e => { if (!dragged) return; turn += (e.clientX - dragged[0]) / 200;
  up = Math.max(-1.5, Math.min(1.57, up + (e.clientY - dragged[1]) / 200)); dragged = [e.clientX, e.clientY]; draw(); };
canvas.onpointerup = () => { dragged = null; };
choose(0); requestAnimationFrame(tick);
</script></body></html>
"""


def _rows(values: Any, digits: int) -> list[list[float] | None]:
    """Return rows as lists, None where one is not finite: JSON knows no NaN."""
    return [[round(float(v), digits) for v in row] if np.isfinite(row).all() else None for row in values]


def _flight(name: str, flight: Flight) -> dict[str, Any]:
    every = max(1, round(_FRAME_S / flight.dt_s))
    body, action = flight.bodies[::every, 0], flight.actions[::every, 0]
    return {
        "name": name,
        "dt": every * flight.dt_s,
        "p": _rows(body[:, 0:3], 4),
        "q": _rows(body[:, 3:7], 4),
        "a": _rows(action, 3),
        "target": _rows(flight.targets[::every, 0], 3),
    }


def replay_page(verdict: Verdict) -> str:
    """Return the page for a verdict whose flights were recorded; the same verdict gives the same text."""
    flights = [
        _flight(f"figure-eight, {period:g} s, {rate} Hz", track.flight)
        for rate, eights in ((100, verdict.eights), (500, verdict.fast_eights))
        for period, track in eights.items()
        if track.flight.bodies.shape[1]
    ]
    if verdict.hover.flight.bodies.shape[1]:
        flights.append(_flight("hover", verdict.hover.flight))
    data = json.dumps(flights, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    title = escape(f"{verdict.policy} on {verdict.vehicle}")
    return _PAGE.replace("@TITLE@", title).replace("@DATA@", data)
