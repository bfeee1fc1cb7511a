"""What we take from tinygrad's internals: if one of these fails after a bump, `tinygrad_adapter` must follow."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
from pathlib import Path

import pytest
from kernel_runs import program_of

import flocklet.kernels
from flocklet.kernels import dense
from flocklet.kernels.compilers import find_compilers
from flocklet.kernels.kernel import Tile
from flocklet.kernels.program import TINYGRAD, Program
from flocklet.kernels.tinygrad_adapter import Loops, load_tinygrad, render_c


def test_the_pin_is_the_version_that_was_tested():
    assert importlib.metadata.version("tinygrad") == TINYGRAD == "0.14.0"
    required = importlib.metadata.requires("flocklet") or []
    assert any(re.match(r"tinygrad\s*==\s*0\.14\.0$", line.split(";")[0].strip()) for line in required)


def test_only_the_adapter_imports_tinygrad():
    folder = Path(flocklet.kernels.__file__).parent
    for path in [*folder.glob("*.py"), *folder.parent.glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(n.split(".")[0] == "tinygrad" for n in names), path.name


def test_the_names_exist_and_the_environment_is_put_back():
    before = dict(os.environ)
    tg = load_tinygrad()
    assert dict(os.environ) == before
    assert {"PROGRAM", "SOURCE", "SINK", "RANGE", "END"} <= {op.name for op in tg.Ops}
    for name in ("placeholder", "range", "group", "sink", "const", "end", "after", "store"):
        assert hasattr(tg.UOp, name), name
    for name in ("supports_float4", "has_local", "has_threads", "has_shared", "code_for_op", "render_kernel"):
        assert hasattr(tg.CStyleLanguage, name), name


def test_a_program_has_the_shape_that_we_read():
    load_tinygrad()
    loops = Loops([8, 8])
    i = loops.loop(8)
    kernel = loops.finish([loops.end([loops.buffers[0][i].store(loops.buffers[1][i] * 2.0)], i)], "twice")
    source, slots = render_c(kernel)
    assert slots == [0, 1]
    assert "static void twice(float *restrict data0_8, const float *restrict data1_8)" in source
    assert not re.search(r"float4|__builtin|ext_vector", source), "this is not portable C99"


def test_marked_loops_are_written_out():
    loops = Loops([6])
    r, i = loops.unrolled(2), loops.loop(3)
    source, _ = render_c(loops.finish([loops.end([loops.buffers[0][i * 2 + r].store(1.0)], r, i)], "k"))
    assert source.count("= 1.0f;") == 2
    assert source.count("for (") == 1


def test_a_golden_matrix_product():
    kernel = dense.dense(8, 3, 16, "relu")
    source, slots = render_c(kernel.emit("golden", Tile(2, 1, 16)))
    assert slots == [0, 1, 2, 3]
    assert re.search(r"for \(int32_t \w+ = 0; \w+ < 4; ", source), "four blocks of two rows"
    assert source.count("float buf") == 1, "one array of accumulators"


@pytest.mark.parametrize("family", ["gcc", "clang"])
def test_every_compiler_takes_the_text_without_a_warning(tmp_path, family):
    found = [c for c in find_compilers() if c.family == family]
    if not found:
        pytest.skip(f"{family} is not installed")
    program = program_of(dense.dense(5, 7, 20, "tanh"), dense.weight_grad(5, 7, 3))
    (tmp_path / "k.c").write_text(program.source(Tile()))
    command = [
        *found[0].argv,
        "-std=c99",
        "-Wall",
        "-Werror",
        "-Wno-unused-function",
        "-O1",
        "-c",
        "k.c",
        "-o",
        "k.o",
    ]
    subprocess.run(command, cwd=tmp_path, check=True)


def test_the_same_program_is_the_same_text_and_the_same_key():
    texts = {make().source(Tile()) for _ in range(2)}
    assert len(texts) == 1


def make() -> Program:
    return program_of(dense.dense(5, 7, 20, "tanh"))
