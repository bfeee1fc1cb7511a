"""Compare the exported C with emx-onnx-cgen and emlearn on one emulated Cortex-M4F.

Instructions, flash, stack, error.

python benchmarks/firmware_export.py [--peers PYTHON] [--json FILE] [--picture FILE.svg]

The net is a seeded 146-64-64-4 actor. Every build is linked into the same bare image and runs in unicorn;
instruction counts are exact, cycles are a model (+-35 %). `--peers` names a Python that has emx-onnx-cgen
and emlearn (a virtual environment of its own; default: this one). Errors are medians over five seeds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from flocklet.firmware_export.export import errors_of, export_policy
from flocklet.firmware_export.plan.plan import make_plan
from flocklet.firmware_export.plan.reference import forward_exact, observations
from flocklet.firmware_export.read.network import Network, seeded_actor
from flocklet.firmware_export.read.semantics import preset
from flocklet.firmware_export.verify.cycles import count_cycles
from flocklet.firmware_export.verify.elf import Image, read_elf
from flocklet.firmware_export.verify.expected import expected_of
from flocklet.firmware_export.verify.harness import (
    build_empty,
    build_image,
    build_size,
    start_text,
    write_link,
)
from flocklet.firmware_export.verify.proof import measure, run_unicorn, verify
from flocklet.firmware_export.verify.report import bars_svg
from flocklet.firmware_export.verify.toolchain import CORES, available, compile_image, version
from flocklet.firmware_export.verify.unicorn_engine import Emulator

PEER_MAIN = """
float in[146], out[4];
void drive_eval(const float *x, float *y);
int image_main(void);
int image_main(void) { drive_eval(in, out); return 0; }
"""
EMX = """
#include <stdint.h>
void model(const float x[1][146], float y[1][4]);
__attribute__((used, noinline)) void drive_eval(const float *x, float *y)
{ model((const float (*)[146])x, (float (*)[4])y); }
"""
EMLEARN = """
#include <stdint.h>
#include "net.h"
__attribute__((used, noinline)) void drive_eval(const float *x, float *y)
{ eml_net_regress(&net, x, 146, y, 4); }
"""
EMLEARN_MAKE = """
import sys, numpy as np
from emlearn.net import c_generate_net_loadable
d = np.load(sys.argv[1])
W = [d[f"w{i}"].T for i in range(3)]; B = [d[f"b{i}"] for i in range(3)]
print(c_generate_net_loadable(["tanh"] * 3, W, B, prefix="net"))
"""


def save_onnx(net: Network, path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants, value = [], [], "x"
    for i, layer in enumerate(net.dense):
        constants += [
            numpy_helper.from_array(layer.weight, f"w{i}"),
            numpy_helper.from_array(layer.bias, f"b{i}"),
        ]
        nodes.append(helper.make_node("Gemm", [value, f"w{i}", f"b{i}"], [f"z{i}"], transB=1))
        value = "y" if i == 2 else f"a{i}"
        nodes.append(helper.make_node("Tanh", [f"z{i}"], [value]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 146])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], constants), opset_imports=[helper.make_opsetid("", 13)]
    )
    model.ir_version = 8
    onnx.save(model, path)


def link_peer(driver: str, sources: list[Path], flags: list[str], where: Path, include: list[Path]) -> Image:
    core = CORES["cortex-m4"]
    (where / "start.c").write_text(start_text(core) + PEER_MAIN)
    (where / "driver.c").write_text(driver)
    libraries = ["-lm", "-lc", "-lgcc", "--specs=nosys.specs"]
    compile_image(
        "gcc", core, [where / "start.c", where / "driver.c", *sources], where / "peer.elf", script=write_link(core, where),
        flags=flags, include=include, libraries=libraries,
    )  # fmt: skip
    return read_elf(where / "peer.elf")


def run_peer(image: Image, net: Network, empty: int) -> dict[str, float]:
    emulator = Emulator(image, CORES["cortex-m4"])
    x = observations(np.random.default_rng(0), 64, 146)
    source, target = emulator.buffer(0), emulator.buffer(1)
    y, most, stack, cycles = np.zeros((64, 4), np.float32), 0, 0, 0
    for i, row in enumerate(x):
        emulator.write(source, row)
        call = emulator.call("drive_eval", source, target, count=i < 16, stack=True)
        most, stack = max(most, call.instructions), max(stack, call.stack_bytes)
        y[i] = emulator.read(target, "<f4", 4)
        if i < 4:
            cycles = max(cycles, count_cycles(emulator, "drive_eval", source, target).total)
    error = float(np.abs(y - forward_exact(net, x)).max())
    return {"instructions": most, "cycles": cycles, "flash": image.flash_bytes - empty, "ram": image.ram_bytes - 600,
            "stack": stack, "error": error}  # fmt: skip


def peers(net: Network, python: str, where: Path, empty: int) -> dict[str, dict[str, float] | str]:
    rows: dict[str, dict[str, float] | str] = {}
    onnx_file = where / "model.onnx"
    save_onnx(net, onnx_file)
    try:
        tool = Path(python).parent / "emx-onnx-cgen"
        (where / "emx").mkdir()
        command = [
            str(tool),
            "compile",
            "--large-temp-threshold",
            "0",
            "--model-name",
            "model",
            str(onnx_file),
        ]
        subprocess.run([*command, str(where / "emx" / "model.c")], check=True, capture_output=True)
        image = link_peer(
            EMX, [where / "emx" / "model.c"], ["-O3", "-std=gnu11"], where / "emx", [where / "emx"]
        )
        rows["emx-onnx-cgen -O3"] = run_peer(image, net, empty)
    except (OSError, subprocess.CalledProcessError) as error:
        rows["emx-onnx-cgen -O3"] = f"not run: {error}"
    try:
        (where / "eml").mkdir()
        np.savez(where / "eml" / "w.npz", **{f"w{i}": d.weight for i, d in enumerate(net.dense)},
                 **{f"b{i}": d.bias for i, d in enumerate(net.dense)})  # fmt: skip
        done = subprocess.run(
            [python, "-c", EMLEARN_MAKE, str(where / "eml" / "w.npz")],
            check=True,
            capture_output=True,
            text=True,
        )
        (where / "eml" / "net.h").write_text(done.stdout)
        home = subprocess.run(
            [python, "-c", "import emlearn; print(emlearn.includedir)"],
            check=True,
            capture_output=True,
            text=True,
        )
        include = [where / "eml", Path(home.stdout.strip())]
        rows["emlearn -O3"] = run_peer(
            link_peer(EMLEARN, [], ["-O3", "-std=gnu99"], where / "eml", include), net, empty
        )
    except (OSError, subprocess.CalledProcessError) as error:
        rows["emlearn -O3"] = f"not run: {getattr(error, 'stderr', '') or error}"[:200]
    return rows


def ours(dtype: str, activation: str, core_name: str, where: Path) -> dict[str, dict[str, float]]:
    core, flags = CORES[core_name], ["-std=c99", "-O2"]
    obs, action = preset("learning-to-fly")
    net = seeded_actor(np.random.default_rng(1), activation=activation)
    made = export_policy(net, where, name="ltf", dtype=dtype, obs=obs, action=action, packages=("plain",))
    expected = expected_of(made.plan)
    image = read_elf(build_image(made.plan, where, "gcc", core, where / "b", flags=flags))
    result, detail, _, emulator = run_unicorn(made.plan, image, core, expected)
    if result != "equal":
        raise SystemExit(f"{dtype} {activation}: {detail}")
    cost = measure(made.plan, emulator, expected, cycles=core_name == "cortex-m4")
    empty = read_elf(build_empty("gcc", core, where / "b", flags=flags)).flash_bytes
    size = {
        what: read_elf(
            build_size(made.plan, where, "gcc", core, where / "b", flags=flags, what=what)
        ).flash_bytes
        - empty
        for what in ("eval", "step")
    }
    seeds = [
        errors_of(make_plan("e", seeded_actor(np.random.default_rng(s), activation=activation), dtype=dtype, obs=obs, action=action),
                  observations(np.random.default_rng(s), 64, 146)).max
        for s in range(5)
    ]  # fmt: skip
    error = float(np.median(seeds))
    emulator.write(emulator.buffer(0), expected.x[0])
    cycles = (
        count_cycles(emulator, "drive_eval", emulator.buffer(0), emulator.buffer(1)).total
        if core.has_fpu
        else 0
    )
    alone = {"instructions": cost["eval_instructions"], "cycles": cycles, "flash": size["eval"], "ram": 0,
             "stack": 0, "error": error}  # fmt: skip
    step = {"instructions": cost["step_instructions"], "cycles": cost["step_cycles"], "flash": size["step"], "ram": 0,
            "stack": cost["stack_bytes"], "error": error}  # fmt: skip
    return {"network alone": alone, "step, cached history": step}


def wall(where: Path) -> dict[str, float]:
    """Return seconds of export + verify (zig, unicorn): the first and the second time."""
    obs, action = preset("learning-to-fly")
    net = seeded_actor(np.random.default_rng(1), activation="fast_tanh")
    times = []
    for i in range(2):
        began = time.perf_counter()
        made = export_policy(net, where / str(i), name="ltf", obs=obs, action=action)
        report = verify(made, engines=("unicorn",), cc=("zig",))
        times.append(time.perf_counter() - began)
        if not report.verified:
            raise SystemExit("not verified")
    return {"first_s": times[0], "second_s": times[1]}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", default=sys.executable, help="Python with emx-onnx-cgen and emlearn")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--wall", action="store_true", help="also time export + verify")
    args = parser.parse_args()
    if not available("gcc"):
        print("arm-none-eabi-gcc is not installed: nothing to compare")
        return 7
    rows: dict[str, dict[str, float] | str] = {}
    with tempfile.TemporaryDirectory() as made:
        where = Path(made)
        empty = read_elf(build_empty("gcc", CORES["cortex-m4"], where, flags=["-O2"])).flash_bytes
        rows |= peers(seeded_actor(np.random.default_rng(1)), args.peers, where, empty)
        for dtype, activation in (
            ("f32", "tanh"),
            ("f32", "fast_tanh"),
            ("w16", "tanh"),
            ("w16", "fast_tanh"),
        ):
            for what, row in ours(dtype, activation, "cortex-m4", where / f"{dtype}{activation}").items():
                rows[f"flocklet {dtype} {activation}, {what}"] = row
        for what, row in ours("i16", "tanh", "cortex-m0plus", where / "i16").items():
            rows[f"flocklet i16 tanh, M0+, {what}"] = row
        timing = wall(where) if args.wall else {}
    print(f"{'export':48} {'insn':>8} {'cycles*':>8} {'flash':>7} {'RAM':>6} {'stack':>6} {'max error':>10}")
    for label, row in rows.items():
        if isinstance(row, str):
            print(f"{label:48} {row}")
            continue
        print(f"{label:48} {row['instructions']:8.0f} {row['cycles'] or '-':>8} {row['flash']:7.0f} {row['ram']:6.0f} "
              f"{row['stack'] or '-':>6} {row['error']:10.1e}")  # fmt: skip
    print(f"* STM32F405 at 168 MHz: model, +-35 %; no silicon was measured. {version('gcc')}")
    for key, value in timing.items():
        print(f"export + verify in unicorn (zig), {key}: {value:.1f}")
    if args.json:
        args.json.write_text(
            json.dumps({"rows": rows, "wall": timing, "gcc": version("gcc")}, indent=2) + "\n"
        )
    if args.picture:
        bars = [(k.replace("flocklet ", ""), float(r["instructions"]), k.startswith("flocklet")) for k, r in rows.items()
                if not isinstance(r, str) and "M0+" not in k]  # fmt: skip
        args.picture.write_text(
            bars_svg("Cortex-M4F, 146-64-64-4: instructions per call", bars, "instructions")
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
