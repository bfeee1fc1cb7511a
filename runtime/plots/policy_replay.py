"""Write what policies do as one HTML page that replays it in any browser: a canvas, no network, nothing to install.

An environment that has `picture(state)` gives, for its first world, rows (kind, x, y, u, v) in a box of +-1: kind 0 is a
line from (x, y) to (u, v), kind 1 a disc at (x, y) of radius u. Every page also shows what the policy saw and did.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from flocklet.models.policy.environment import Environment, heads_of
from flocklet.models.policy.policy import Actor, act
from flocklet.onnx_io.model import save

__all__ = ["replay_page", "write_replay"]

_MOST_TRACES = 24

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>@TITLE@</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body { font: 15px system-ui, sans-serif; margin: 1em; color: #222; background: #fff }
.row { display: flex; flex-wrap: wrap; gap: 1em } figure { margin: 0; width: 420px; max-width: 100% }
canvas { width: 100%; border: 1px solid #ccc; display: block } figcaption { margin: .3em 0 }
</style></head><body>
<p><b>@TITLE@</b> (simulated)</p><div class="row" id="row"></div>
<p><button id="play">pause</button> <input id="time" type="range" min="0" value="0"> <span id="clock"></span></p>
<p>Above: the world, if the task draws it. Below: what the policy saw (grey) and did (blue), each in its own range.</p>
<script>
const RUNS = @DATA@;
const time = document.getElementById("time"), clock = document.getElementById("clock");
const play = document.getElementById("play");
let frame = 0, playing = true;
time.max = Math.max(...RUNS.map(r => r.seen.length)) - 1;
for (const r of RUNS) {
  const f = document.createElement("figure"), c = document.createElement("canvas"), t = document.createElement("figcaption");
  c.width = 840; c.height = r.picture ? 1200 : 560; f.append(c, t);
  document.getElementById("row").append(f); r.canvas = c; r.text = t;
}
function trace(g, rows, k, top, high, colour, now) {
  let low = Infinity, most = -Infinity;
  for (const v of rows) { low = Math.min(low, v[k]); most = Math.max(most, v[k]); }
  const span = most - low || 1; g.beginPath(); g.strokeStyle = colour; g.lineWidth = 3;
  rows.slice(0, now + 1).forEach((v, i) => {
    const x = 20 + 800 * i / Math.max(rows.length - 1, 1), y = top + high - high * (v[k] - low) / span;
    if (i) g.lineTo(x, y); else g.moveTo(x, y); });
  g.stroke();
}
function draw() {
  for (const r of RUNS) {
    const g = r.canvas.getContext("2d"), now = Math.min(frame, r.seen.length - 1);
    g.clearRect(0, 0, 840, r.canvas.height);
    let top = 20;
    if (r.picture) {
      g.lineWidth = 10; g.strokeStyle = "#4477aa"; g.fillStyle = "#ee6677";
      for (const [kind, x, y, u, v] of r.picture[now]) {
        const X = 420 + 310 * x, Y = 330 - 310 * y; g.beginPath();
        if (kind) { g.arc(X, Y, Math.max(310 * u, 6), 0, 7); g.fill(); }
        else { g.moveTo(X, Y); g.lineTo(420 + 310 * u, 330 - 310 * v); g.stroke(); } }
      top = 660;
    }
    const n = r.seen[0].length + r.action[0].length, high = Math.min(60, 500 / n);
    for (let k = 0; k < r.seen[0].length; k++) trace(g, r.seen, k, top + k * high, high * .8, "#999", now);
    for (let k = 0; k < r.action[0].length; k++)
      trace(g, r.action, k, top + (r.seen[0].length + k) * high, high * .8, "#4477aa", now);
    r.text.textContent = r.name + ": return " + r.total[now].toPrecision(4) + (now == r.seen.length - 1 ? " (over)" : "");
  }
  time.value = frame; clock.textContent = "step " + frame;
}
play.onclick = () => { playing = !playing; play.textContent = playing ? "pause" : "play"; };
time.oninput = () => { frame = +time.value; draw(); };
setInterval(() => { if (playing) { frame = frame >= +time.max ? 0 : frame + 1; draw(); } }, 40);
draw();
</script></body></html>
"""


def replay_page(title: str, runs: Sequence[dict[str, Any]]) -> str:
    """Return the page; a run has name, seen (T, D), action (T, K), total (T,) and picture (T rows of shapes) or None."""
    data = json.dumps(list(runs), allow_nan=False).replace("<", "\\u003c")
    return _PAGE.replace("@TITLE@", escape(title)).replace("@DATA@", data)


def write_replay(path: Path, env: Environment, policies: Sequence[Actor], seed: int) -> None:
    """Let each policy act greedily for one episode of the same world and write the page."""
    runs = [_run(env, policy, seed) for policy in policies]
    save(path, replay_page(f"{env.spec.name}, seed {seed}", runs).encode())


def _run(env: Environment, policy: Actor, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    state, total = env.reset(rng, 1), 0.0
    picture = getattr(env, "picture", None)
    out: dict[str, Any] = {"name": str(getattr(policy, "path", "policy"))}
    out |= {"seen": [], "action": [], "total": [], "picture": [] if picture else None}
    for _ in range(env.spec.steps):
        seen = env.observe(state, rng)
        action, _ = act(policy, seen, rng, greedy=True, allowed=env.allowed(state))
        if picture:
            out["picture"].append(np.round(picture(state), 4).tolist())
        turn = env.step(state, action, rng)
        total += float(heads_of(turn.reward, env.spec).sum())
        out["seen"].append(np.round(seen[0].reshape(-1)[:_MOST_TRACES].astype(float), 4).tolist())
        out["action"].append(np.round(action[0].reshape(-1).astype(float), 4).tolist())
        out["total"].append(round(total, 6))
        state = turn.state
        if turn.terminated[0] or turn.truncated[0]:
            break
    return out
