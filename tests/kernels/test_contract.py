"""What we take from tinygrad's internals: if one of these fails after a bump, `tinygrad_adapter` must follow."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

import flocklet.kernels
from flocklet.kernels import dense
from flocklet.kernels.compile.compilers import find_compilers
from flocklet.kernels.kernel import Tile
from flocklet.kernels.program import TINYGRAD, Program
from flocklet.kernels.render.portable_c import write_c
from flocklet.kernels.render.tinygrad_adapter import Loops, load_tinygrad, nodes_of
from kit.kernel_runs import program_of


def test_the_pin_is_the_version_that_was_tested():
    assert importlib.metadata.version("tinygrad") == TINYGRAD == "0.14.0"
    required = importlib.metadata.requires("flocklet") or []
    assert any(re.match(r"tinygrad\s*==\s*0\.14\.0$", line.split(";")[0].strip()) for line in required)


def test_only_the_adapter_imports_tinygrad():
    folder = Path(flocklet.kernels.__file__).parent
    for path in folder.parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(n.split(".")[0] == "tinygrad" for n in names), path.name


def test_the_names_exist_and_the_environment_is_put_back():
    before = dict(os.environ)
    tg = load_tinygrad()
    assert dict(os.environ) == before
    for name in ("placeholder", "range", "group", "sink", "const", "end", "after", "store", "toposort"):
        assert hasattr(tg.UOp, name), name


def written(loops: Loops, statements: list[Any], name: str) -> tuple[str, list[int]]:
    return write_c(nodes_of(loops.finish(statements, name)), name)


def test_a_kernel_has_the_nodes_that_we_read():
    loops = Loops([8, 8])
    i, r = loops.loop(8), loops.unrolled(2)
    begin = loops.after(loops.registers(4), i)
    stores = [loops.buffers[0][i].store(loops.buffers[1][i] * 2.0), begin[r].store(1.5)]
    nodes = nodes_of(loops.finish([loops.end(stores, r, i)], "k"))
    ops = [node.op for node in nodes]
    assert ops[-1] == "SINK"
    assert ops.count("END") == ops.count("RANGE") == ops.count("STORE") == 2
    assert sorted(n.size for n in nodes if n.op == "RANGE") == [2, 8]
    assert [n.is_unrolled for n in nodes if n.op == "RANGE" and n.size == 2] == [True]
    assert sorted((n.slot, n.size) for n in nodes if n.op == "PARAM") == [(0, 8), (1, 8)]
    assert [(n.slot, n.size) for n in nodes if n.op == "BUFFER"] == [(0, 4)]
    assert {1.5, 2.0} <= {n.value for n in nodes if n.op == "CONST"}
    assert all(s < at for at, node in enumerate(nodes) for s in node.sources), "sources come first"


def test_a_kernel_becomes_plain_c():
    loops = Loops([8, 8])
    i = loops.loop(8)
    source, slots = written(
        loops, [loops.end([loops.buffers[0][i].store(loops.buffers[1][i] * 2.0)], i)], "twice"
    )
    assert slots == [0, 1]
    assert "void twice(float *restrict b0, const float *restrict b1)" in source
    assert not re.search(r"float4|__builtin|ext_vector", source), "this is not portable C99"


def test_marked_loops_are_written_out():
    loops = Loops([6])
    r, i = loops.unrolled(2), loops.loop(3)
    source, _ = written(loops, [loops.end([loops.buffers[0][i * 2 + r].store(1.0)], r, i)], "k")
    assert source.count("= 1.0f;") == 2
    assert source.count("for (") == 1


def test_stores_of_one_group_happen_together():
    loops = Loops([4, 4])
    a, b = loops.buffers
    i = loops.loop(4)
    source, _ = written(loops, [loops.end([a[i].store(b[i]), b[i].store(a[i])], i)], "swap")
    reads, writes = (
        re.findall(r"float \w+ = b\d\[", source),
        re.findall(r"^b\d\[.* = \w+;$", source, re.MULTILINE),
    )
    assert (len(reads), len(writes)) == (2, 2)
    assert max(source.index(r) for r in reads) < min(source.index(w) for w in writes)


def test_what_does_not_depend_on_a_loop_is_computed_outside_of_it():
    loops = Loops([4, 1])
    i = loops.loop(4)
    source, _ = written(
        loops, [loops.end([loops.buffers[0][i].store(loops.buffers[1][0].sqrt())], i)], "fill"
    )
    assert source.index("sqrtf") < source.index("for (")


def test_an_index_that_is_no_sum_of_counters_is_refused():
    loops = Loops([16])
    i, j = loops.loop(4), loops.loop(4)
    with pytest.raises(ValueError, match="multiplies two loop counters"):
        written(loops, [loops.end([loops.buffers[0][i * j].store(1.0)], i, j)], "bad")


def test_a_golden_matrix_product():
    kernel = dense.dense(8, 3, 16, "relu")
    source, slots = write_c(nodes_of(kernel.emit("golden", Tile(2, 1, 16))), "golden")
    assert slots == [0, 1, 2, 3]
    assert re.search(r"for \(int32_t \w+ = 0; \w+ < 4; ", source), "four blocks of two rows"
    assert len(re.findall(r"float r\d+\[", source)) == 1, "one array of accumulators"


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
