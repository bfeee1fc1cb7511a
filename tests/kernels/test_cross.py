"""Every generated source for aarch64: cross-compiled with ziglang for a Cortex-A72, run under qemu-user, same numbers."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from flocklet.cli.bench_kernels import simulator_program, stacked_program
from flocklet.kernels import losses, optim
from flocklet.kernels.actor_critic import Td3Shape, td3_program
from flocklet.kernels.compile.compilers import cross_compiler
from flocklet.kernels.dense import dense, weight_grad
from flocklet.kernels.kernel import native_tile
from flocklet.kernels.nets import Mlp
from flocklet.kernels.program import Program
from flocklet.models.flight.train.rollout import backward_program, forward_program
from kit.kernel_runs import program_of, twin64

pytestmark = [pytest.mark.qemu, pytest.mark.slow, pytest.mark.timeout(600)]

HOST = r"""
#include <stdio.h>
#include <stdlib.h>
void flocklet_run(float *const *b, long lo, long hi);
int main(int argc, char **argv) {
  int n = argc - 1; float *b[64]; long size[64];
  for (int i = 0; i < n; i++) {
    size[i] = atol(argv[i + 1]); b[i] = aligned_alloc(64, (size[i] * 4 / 64 + 2) * 64);
    if (fread(b[i], 4, size[i], stdin) != (size_t)size[i]) return 2;
  }
  flocklet_run(b, 0, 1);
  for (int i = 0; i < n; i++) fwrite(b[i], 4, size[i], stdout);
  return 0;
}
"""


def programs() -> dict[str, Program]:
    net = Mlp((17, 16, 4), "tanh", "tanh")
    return {
        "layers": program_of(
            dense(5, 19, 37, "fast_tanh", keep_slope=True), weight_grad(5, 19, 3), optim.adam(33)
        ),
        "losses": program_of(losses.huber_grad(21), losses.mse_loss(21), optim.squared_norm(77)),
        "td3": td3_program(Td3Shape(batch=16)),
        "stacked": stacked_program(3, Mlp((6, 8, 3), "relu"), batch=4),
        "simulator": simulator_program(32, chunk=32, steps=3),
        "forward": forward_program(net, 8),
        "backward": backward_program(net, 8),
    }


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", sorted(programs()))
def test_aarch64(tmp_path, name):
    compiler = cross_compiler()
    qemu = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if compiler is None:
        pytest.skip("ziglang is not installed")
    program = programs()[name]
    (tmp_path / "k.c").write_text(program.source(native_tile(compiler.target)))
    (tmp_path / "host.c").write_text(HOST)
    cache = os.environ.get("ZIG_GLOBAL_CACHE_DIR", str(Path(tempfile.gettempdir()) / "flocklet-zig-cache"))
    env = dict(os.environ, ZIG_GLOBAL_CACHE_DIR=cache, ZIG_LOCAL_CACHE_DIR=cache)
    flags = [f for f in compiler.flags if f not in ("-shared", "-fPIC", "-target", compiler.target)]
    target = ["-target", "aarch64-linux-musl", "-static"]
    command = [*compiler.argv, *flags, *target, "k.c", "host.c", "-o", "k", "-lm"]
    subprocess.run(command, cwd=tmp_path, env=env, check=True)
    command = [*compiler.argv, *flags, "-target", "aarch64-linux-gnu", "-S", "k.c", "-o", "k.s"]
    subprocess.run(command, cwd=tmp_path, env=env, check=True)
    assembly = (tmp_path / "k.s").read_text()
    assert assembly.count(".4s") > 20, "no NEON: the loops were not vectorised"
    if qemu is None:
        pytest.skip("compiled, but qemu-aarch64 is not on the path to run it")
    rng = np.random.default_rng(0)
    oracle = twin64(program)
    given = []
    for buffer in oracle.buffers.values():
        values = (np.abs(rng.standard_normal(buffer.size)) * 0.5).astype(np.float32)
        buffer[:] = values
        given.append(values.tobytes())
    oracle()
    sizes = [str(b.size) for b in oracle.buffers.values()]
    done = subprocess.run(
        [qemu, str(tmp_path / "k"), *sizes], input=b"".join(given), capture_output=True, check=True
    )
    got, at = np.frombuffer(done.stdout, np.float32), 0
    for buffer_name, want in oracle.buffers.items():
        part = got[at : at + want.size]
        at += want.size
        assert np.abs(part - want).max() <= 2e-5 * (np.abs(want).max() + 1e-30), buffer_name
