"""Shared pieces of the firmware tests: nets, C files, and skips that name the missing tool."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flocklet.cli import build_parser
from flocklet.firmware_export.c.emit import code_parts, emit_header, emit_source, emit_vectors
from flocklet.firmware_export.c.vectors import golden
from flocklet.firmware_export.export import describe
from flocklet.firmware_export.plan.plan import Plan, make_plan
from flocklet.firmware_export.read.network import Network, seeded_actor
from flocklet.firmware_export.read.semantics import ActionSpec, ObsSpec, preset
from flocklet.firmware_export.verify import qemu_engine, unicorn_engine
from flocklet.firmware_export.verify.toolchain import available

needs_cc = pytest.mark.skipif(not available("host"), reason="no host C compiler 'cc'")
needs_gcc = pytest.mark.skipif(not available("gcc"), reason="arm-none-eabi-gcc is not installed")
needs_zig = pytest.mark.skipif(not available("zig"), reason="the package ziglang is not installed")
needs_unicorn = pytest.mark.skipif(
    not unicorn_engine.available(), reason="the package unicorn is not installed"
)
needs_qemu = pytest.mark.skipif(not qemu_engine.available(), reason="qemu-system-arm is not installed")


def actor(activation: str = "fast_tanh", seed: int = 1) -> Network:
    """Return a seeded net of the shape of Learning-to-Fly."""
    return seeded_actor(np.random.default_rng(seed), activation=activation)


def actor_plan(dtype: str = "f32", rules: str = "learning-to-fly", activation: str = "fast_tanh") -> Plan:
    """Return the plan of the seeded actor under a preset."""
    obs, action = preset(rules)
    return make_plan("ltf", actor(activation), dtype=dtype, obs=obs, action=action)


def small_plan(dtype: str = "f32", *, name: str = "small", kind: str = "tanh", **fields: object) -> Plan:
    """Return the plan of a small net with odd sizes and a history of 3 actions in 5 entries."""
    spec: dict[str, object] = {"state": 5, "clip": 4.0, "history": (5, 3), "period": 3, "range": 4.0}
    spec |= {key: value for key, value in fields.items() if key in ObsSpec.__dataclass_fields__}
    rules = {key: value for key, value in fields.items() if key in ActionSpec.__dataclass_fields__}
    net = seeded_actor(np.random.default_rng(3), (5 + 15, 16, 7, 3), kind)
    return make_plan(name, net, dtype=dtype, obs=ObsSpec(**spec), action=ActionSpec(**rules))  # type: ignore[arg-type]


def write_c(plan: Plan, where: Path, *, loadable: bool = False, use_asm: bool = True) -> Path:
    """Write only the C files of a plan; return the directory."""
    where.mkdir(parents=True, exist_ok=True)
    parts = code_parts(plan, use_asm=use_asm)
    (where / f"{plan.name}.h").write_text(emit_header(plan, parts, loadable=loadable))
    info = describe(plan, loadable=loadable)
    (where / f"{plan.name}.c").write_text(emit_source(plan, parts, info, loadable=loadable))
    (where / f"{plan.name}_test_vectors.h").write_text(emit_vectors(plan, golden(plan)))
    return where


def command(*words: object) -> int:
    """Run a command line in this process; return its exit code, or raise what it raises."""
    typed = [str(word) for word in words]
    args = build_parser(typed).parse_args(typed)
    args.json, args.quiet = getattr(args, "json", False), getattr(args, "quiet", True)
    return int(args.run(args))
