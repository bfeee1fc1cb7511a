"""Say what an export costs and what was proved: as a table, as JSON, and as a picture of bars.

Cycles are always printed with their band: they come from a model, no silicon was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from flocklet.firmware_export.export import Artifact
from flocklet.firmware_export.verify.cycles import BAND
from flocklet.firmware_export.verify.proof import Report

__all__ = [
    "bars_svg",
    "comparison_lines",
    "difference",
    "graph_summary",
    "report_lines",
    "summary",
    "tree_summary",
]

_BUDGET_CYCLES = 168e6 * 0.002


def report_lines(report: Report) -> list[str]:
    """Return the rows of a verification as lines of text."""
    lines = [
        f"{'engine':8} {'core':14} {'compiler':9} {'result':10} {'sha256':11} "
        f"{'eval':>8} {'step':>8} {'stack':>6}  flags"
    ]
    for row in report.rows:
        counts = [
            str(n) if n else "-" for n in (row.eval_instructions, row.step_instructions, row.stack_bytes)
        ]
        lines.append(
            f"{row.engine:8} {row.core:14} {row.compiler.split(':')[0]:9} {row.result:10} "
            f"{row.sha256[:10] or '-':11} {counts[0]:>8} {counts[1]:>8} {counts[2]:>6}  "
            f"{row.flags}{'  ' + row.detail if row.detail else ''}"
        )
    lines.append(
        "verified: every engine that ran gives the same bits as the NumPy reference"
        if report.verified
        else "NOT verified"
    )
    return lines


def summary(artifact: Artifact) -> list[str]:
    """Return what `flocklet export report` prints of one export."""
    m, obs = artifact.manifest, artifact.plan.obs
    error = m["error"]
    lines = [
        f"{m['name']}: {'-'.join(map(str, m['dims']))} {m['dtype']}, {m['weights_bytes']} bytes of weights",
        f"error against float64: max {error['max']:.2e}, rms {error['rms']:.2e} "
        f"({error['count']} {error['observations']} observations)",
    ]
    lines += comparison_lines(m)
    if m["proofs"]:
        margins = ", ".join(f"{v:.1%}" for v in m["proofs"]["overflow_margin"])
        lines.append(f"no integer sum can overflow; margins {margins}")
    if obs.history:
        lines.append(
            f"history: {obs.history[0]} x {obs.history[1]}, {obs.order}, period {obs.period}, "
            f"fed with {obs.feed}, starts at {obs.init:g}"
        )
    rows = [row for row in m.get("verification", {}).get("rows", []) if row["result"] != "not run"]
    for row in rows:
        if not row["step_instructions"] or row["engine"] != "unicorn":
            continue
        text = f"{row['core']}, {row['compiler'].split(':')[0]}: "
        text += f"{row['step_instructions']} instructions per step (worst)"
        if row["step_cycles"]:
            share = row["step_cycles"] / _BUDGET_CYCLES
            text += f", {row['step_cycles']} cycles = {share:.1%} of 2 ms at 168 MHz ({BAND})"
        text += (
            f", stack {row['stack_bytes']} B, flash {row['flash_step']} B, static RAM {row['static_ram']} B"
        )
        lines.append(text)
    if not rows:
        lines.append("not verified yet: run 'flocklet verify DIR'")
    else:
        lines.append("verified" if m["verification"]["verified"] else "NOT verified")
    return lines


def comparison_lines(manifest: dict[str, Any]) -> list[str]:
    """Return what is known about the file that was exported: that onnxruntime agrees, or that nobody asked it."""
    found = manifest.get("compared", "not compared")
    if isinstance(found, str):
        return (
            []
            if found == "not a file"
            else ["not compared: onnxruntime did not run the file, so nothing shows that it was read rightly"]
        )
    return [
        f"compared with the file: {found['with']} agrees on {found['observations']} observations "
        f"(largest difference {found['largest_difference']:.1e})"
    ]


def graph_summary(manifest: dict[str, Any]) -> list[str]:
    """Return what `flocklet export report` prints of an export of a convolutional net."""
    rows = [row for row in manifest.get("verification", {}).get("rows", []) if row["result"] != "not run"]
    lines = [
        f"{manifest['name']}: {manifest['steps']} steps, {manifest['parameters']} parameters, {manifest['macs']} products, "
        f"{manifest['weights_bytes']} bytes of weights",
        f"arena {4 * manifest['arena_words']} bytes (no plan can need fewer than {4 * manifest['arena_bound_words']})",
        *comparison_lines(manifest),
    ]
    lines += [
        f"{row['core']}, {row['compiler'].split(':')[0]}: {row['eval_instructions']} instructions, stack "
        f"{row['stack_bytes']} B"
        for row in rows
        if row["eval_instructions"]
    ]
    verified = "verified" if manifest.get("verification", {}).get("verified") else "NOT verified"
    return [*lines, verified if rows else "not verified yet: run 'flocklet verify DIR'"]


def tree_summary(manifest: dict[str, Any]) -> list[str]:
    """Return what `flocklet export report` prints of an export of trees."""
    rows = [row for row in manifest.get("verification", {}).get("rows", []) if row["result"] != "not run"]
    verified = "verified" if manifest.get("verification", {}).get("verified") else "NOT verified"
    return [
        f"{manifest['name']}: {manifest['trees']} trees, {manifest['inputs']} inputs, {manifest['outputs']} outputs, "
        f"{manifest['table_bytes']} bytes of tables",
        *comparison_lines(manifest),
        verified if rows else "not verified yet: run 'flocklet verify DIR'",
    ]


def difference(left: Artifact, right: Artifact) -> dict[str, Any]:
    """Return how two exports differ: fields, weights, and bits on the same observations."""
    keys = (
        "dtype",
        "dims",
        "activations",
        "obs",
        "action",
        "cached_history",
        "loadable",
        "exporter",
        "model_sha256",
    )
    fields: dict[str, Any] = {}
    for key in keys:
        a, b = left.manifest[key], right.manifest[key]
        if isinstance(a, dict) and isinstance(b, dict):
            fields |= {f"{key}.{k}": [a.get(k), b.get(k)] for k in sorted(a | b) if a.get(k) != b.get(k)}
        elif a != b:
            fields[key] = [a, b]
    result: dict[str, Any] = {"fields": fields, "same_weights": left.plan.payload == right.plan.payload}
    if (
        left.plan.network.n_in == right.plan.network.n_in
        and left.plan.network.n_out == right.plan.network.n_out
    ):
        from flocklet.firmware_export.export import outputs
        from flocklet.firmware_export.plan.reference import observations

        x = observations(np.random.default_rng(0), 64, left.plan.network.n_in)
        a_out, b_out = outputs(left.plan, x), outputs(right.plan, x)
        result["same_bits"] = bool(np.array_equal(a_out.view(np.uint32), b_out.view(np.uint32)))
        result["largest_output_change"] = float(np.abs(a_out - b_out).max())
    return result


def bars_svg(title: str, bars: Sequence[tuple[str, float, bool]], unit: str) -> str:
    """Return an SVG picture of labelled horizontal bars; a bar marked True is drawn in colour (ours)."""
    width, left, row = 760, 280, 26
    height = 56 + row * len(bars)
    top = max((value for _, value, _ in bars), default=1.0) or 1.0
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="16" y="26" font-size="16">{escape(title)}</text>',
    ]
    for i, (label, value, ours) in enumerate(bars):
        y = 44 + i * row
        length = max(1.0, (width - left - 130) * value / top)
        colour = "#1f6feb" if ours else "#9aa4af"
        parts.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(label)}</text>')
        parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="18" fill="{colour}"/>')
        parts.append(f'<text x="{left + length + 6:.1f}" y="{y + 14}">{value:,.0f} {escape(unit)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
