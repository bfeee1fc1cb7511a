"""Compilers that hang, crash or lie; caches that cannot be written; nothing of it may stop the program."""

from __future__ import annotations

import logging
import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from flocklet.errors import ConfigError
from flocklet.kernels import optim
from flocklet.kernels.compile.compilers import Compiler, find_compilers
from flocklet.kernels.compile.executable import Executable
from flocklet.kernels.compile.library_cache import LibraryCache, default_cache_dir
from flocklet.kernels.program import Program
from kit.kernel_runs import compiler, program_of

SOURCE = "void flocklet_run(float *const *b, long lo, long hi) { for (long s = lo; s < hi; ++s) b[0][s] += 1.0f; }\n"


def fake(tmp_path: Path, script: str) -> Compiler:
    """Return a compiler that is a shell script; it gets the usual command line."""
    path = tmp_path / "fakecc"
    path.write_text("#!/bin/sh\n" + textwrap.dedent(script))
    path.chmod(0o755)
    return Compiler((str(path),), "gcc")


def build(cache: LibraryCache, with_compiler: Compiler, source: str = SOURCE) -> Path:
    return cache.build("key", source, with_compiler, symbol="flocklet_run", sizes=[4])


def small() -> Program:
    return program_of(optim.sgd(4, 1.0))


def check_runs(executable, backend: str) -> None:
    assert executable.backend == backend
    executable.buffers["k0_0"][:] = 5
    executable.buffers["k0_1"][:] = 2
    executable()
    assert np.array_equal(executable.buffers["k0_0"], np.full(4, 3))


def test_a_built_library_is_found_again_and_runs(tmp_path):
    cache = LibraryCache(tmp_path / "c")
    assert cache.get("key") is None
    path = build(cache, compiler())
    assert LibraryCache(tmp_path / "c").get("key") == path
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_hanging_compiler_is_killed_with_its_children_and_waited_for_once(tmp_path, caplog):
    cache = LibraryCache(tmp_path / "c", compile_timeout_s=1.5)
    hanging = fake(tmp_path, f"sleep 300 & echo $! > {tmp_path}/child\nwait\n")
    with caplog.at_level(logging.WARNING, "flocklet.kernels"):
        check_runs(small().compile(cache=cache, compilers=[hanging]), "numpy")
    assert "gave no library within 1.5 s" in caplog.text
    child = int((tmp_path / "child").read_text())
    with pytest.raises(ProcessLookupError):
        for _ in range(200):
            os.kill(child, 0)
            if Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                raise ProcessLookupError
            subprocess.run(["sleep", "0.01"], check=True)
    (tmp_path / "child").unlink()
    check_runs(small().compile(cache=cache, compilers=[hanging]), "numpy")
    assert not (tmp_path / "child").exists(), "the hanging compiler was started again"


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("kill -SEGV $$", "failed"),
        ("echo 'kernels.c:1: error: boom' >&2; exit 1", "error: boom"),
        ("exit 0", "failed"),
        ('for a; do case "$l" in -o) echo no library > "$a";; esac; l="$a"; done', "not a library"),
        ('for a; do case "$l" in -o) printf "\\177ELFbroken" > "$a";; esac; l="$a"; done', "is broken"),
    ],
    ids=["crashes", "refuses", "writes nothing", "writes text", "writes a broken library"],
)
def test_a_broken_compiler_costs_one_line(tmp_path, caplog, script, why):
    with caplog.at_level(logging.WARNING, "flocklet.kernels"):
        run = small().compile(cache=LibraryCache(tmp_path / "c"), compilers=[fake(tmp_path, script)])
    check_runs(run, "numpy")
    assert why in run.reason
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1


def test_several_files_become_one_library_or_one_error(tmp_path):
    """The second file calls the first; a compiler that chokes on either of them is an ordinary failure."""
    part = "void part(float *x) { x[0] += 2.0f; }\n"
    entry = "void part(float *x);\n" + SOURCE.replace("b[0][s] += 1.0f", "part(b[0] + s)")
    good = tmp_path / "good"
    path = LibraryCache(good).build("key", [part, entry], compiler(), symbol="flocklet_run", sizes=[4])
    assert LibraryCache(good).get("key") == path
    for bad in ([part, "int broken("], ["int broken(", entry], [part.replace("part", "other"), entry]):
        with pytest.raises(ConfigError, match=r"failed|broken"):
            LibraryCache(tmp_path / "bad").build("key", bad, compiler(), symbol="flocklet_run", sizes=[4])
        assert LibraryCache(tmp_path / "bad").get("key") is None


def test_a_large_program_in_several_files_computes_the_same(tmp_path):
    from flocklet.kernels.actor_critic import Td3Shape, td3_program
    from flocklet.kernels.kernel import native_tile

    program = td3_program(Td3Shape(batch=16, width=16))
    whole, parts = program.sources(native_tile(), 1), program.sources(native_tile(), 2)
    assert (len(whole), len(parts)) == (1, 2)
    results = []
    for i, sources in enumerate((whole, parts)):
        path = LibraryCache(tmp_path).build(
            str(i), sources, compiler(), symbol="flocklet_run", sizes=list(program.sizes.values())
        )
        run = Executable(program, library=path)
        for j, array in enumerate(run.buffers.values()):
            array[:] = np.random.default_rng(j).standard_normal(array.size) * 0.1
        run.buffers["v"][:] = run.buffers["m"][:] = run.buffers["ticks"][:] = 0
        run()
        results.append(run.buffers["params"].copy())
    assert np.allclose(results[0], results[1], rtol=1e-5, atol=1e-7)


def test_the_next_compiler_is_tried(tmp_path):
    run = small().compile(
        cache=LibraryCache(tmp_path / "c"), compilers=[fake(tmp_path, "exit 1"), compiler()]
    )
    check_runs(run, "native")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("__builtin_trap();", "died of SIG"),
        ("*(volatile int *)0 = 1;", "died of SIGSEGV"),
        ("volatile int go = 1; while (go) { }", "did not return"),
    ],
    ids=["illegal instruction", "bad address", "endless loop"],
)
def test_a_library_that_crashes_or_hangs_does_so_in_a_child(tmp_path, body, why):
    cache = LibraryCache(tmp_path / "c")
    if "go" in body:
        cache.trial_timeout_s = 1.0
    source = f"void flocklet_run(float *const *b, long lo, long hi) {{ {body} }}\n"
    with pytest.raises(ConfigError, match=why):
        build(cache, compiler(), source)
    assert cache.get("key") is None


def test_loading_our_library_leaves_denormals_alone(tmp_path):
    """The control is a library linked with -ffast-math: gcc's start-up code flips the process to flush-to-zero."""
    path = build(LibraryCache(tmp_path / "c"), compiler())
    code = "import ctypes, sys; ctypes.CDLL(sys.argv[1]); t = float.fromhex('0x1p-1060'); print(t * 0.5 > 0)"
    ask = [sys.executable, "-I", "-c", code]
    assert (
        subprocess.run([*ask, str(path)], capture_output=True, text=True, check=True).stdout.strip() == "True"
    )
    if compiler().family != "gcc" or os.uname().machine != "x86_64":
        pytest.skip("the control needs gcc on x86-64")
    (tmp_path / "f.c").write_text(SOURCE)
    flags = ["-shared", "-fPIC", "-ffast-math", str(tmp_path / "f.c"), "-o", str(tmp_path / "f.so")]
    subprocess.run([*compiler().argv, *flags], check=True)
    done = subprocess.run([*ask, str(tmp_path / "f.so")], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    fast = Compiler((*compiler().argv, "-ffast-math"), compiler().family)
    with pytest.raises(ConfigError, match="flush-to-zero"):
        build(LibraryCache(tmp_path / "d"), fast)


def test_a_damaged_library_is_not_loaded_but_built_again(tmp_path):
    cache = LibraryCache(tmp_path / "c")
    path = build(cache, compiler())
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:2000])
    assert cache.get("key") is None
    assert build(cache, compiler()).exists()


def test_a_read_only_or_foreign_cache_is_replaced_by_a_private_one(tmp_path, caplog):
    (tmp_path / "file").write_text("not a directory")
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    for place in (tmp_path / "file" / "c", shared):
        cache = LibraryCache(place)
        with caplog.at_level(logging.WARNING, "flocklet.kernels"):
            path = build(cache, compiler())
        assert path.exists() and place not in path.parents
        assert "private copy" in caplog.text
        assert cache.get("key") == path
        caplog.clear()


def test_a_full_disk_is_replaced_by_a_private_place(tmp_path, monkeypatch):
    cache = LibraryCache(tmp_path / "c")
    real = os.fsync

    def full(handle: int) -> None:
        if str(tmp_path / "c") in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    path = build(cache, compiler())
    assert path.exists() and tmp_path not in path.parents
    assert list((tmp_path / "c").iterdir()) == []


def test_two_processes_that_compile_at_once_both_succeed(tmp_path):
    code = textwrap.dedent("""
        import sys
        from pathlib import Path
        from flocklet.kernels.compile.compilers import find_compilers
        from flocklet.kernels.compile.library_cache import LibraryCache, load_library
        cc = [c for c in find_compilers() if c.family == sys.argv[3]]
        source = sys.argv[2]
        path = LibraryCache(Path(sys.argv[1])).build("key", source, cc[0], symbol="flocklet_run", sizes=[4])
        load_library(path)
        print(path)
    """)
    command = [sys.executable, "-c", code, str(tmp_path / "c"), SOURCE, compiler().family]
    jobs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    paths = {job.communicate()[0].strip() for job in jobs}
    assert [job.returncode for job in jobs] == [0, 0, 0]
    assert all(Path(path).exists() for path in paths)
    assert LibraryCache(tmp_path / "c").get("key") is not None
    assert not list((tmp_path / "c").glob(".new-*"))


def test_without_any_compiler_everything_works_and_one_line_says_so(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("FLOCKLET_CC", "none")
    assert find_compilers() == []
    with caplog.at_level(logging.WARNING, "flocklet.kernels"):
        check_runs(small().compile(cache=LibraryCache(tmp_path / "c")), "numpy")
    assert [r.getMessage() for r in caplog.records] == [
        "kernels run in NumPy: no C compiler found; install clang or gcc, or pip install '.[compiler]'"
    ]


def test_the_environment_names_the_compiler_and_the_cache(tmp_path):
    script = tmp_path / "mycc"
    script.write_text("#!/bin/sh\nexit 0\n")
    script.chmod(0o755)
    found = find_compilers({"FLOCKLET_CC": f"{script} -m64", "PATH": str(tmp_path)})
    assert found[0].argv == (str(script), "-m64")
    assert default_cache_dir({"FLOCKLET_CACHE": "/x"}) == Path("/x/kernels")
    assert default_cache_dir({"XDG_CACHE_HOME": "/y"}) == Path("/y/flocklet/kernels")


def test_a_warm_start_uses_the_library_without_tinygrad_and_without_a_compiler_run(tmp_path):
    chosen = compiler()
    cache = LibraryCache(tmp_path / "c")
    small().compile(cache=cache, compilers=[chosen])
    code = textwrap.dedent("""
        import sys
        from pathlib import Path
        import subprocess
        subprocess.Popen = None
        sys.path.insert(0, sys.argv[2])
        from kit.kernel_runs import compiler, program_of
        from flocklet.kernels import optim
        from flocklet.kernels.compile.library_cache import LibraryCache
        run = program_of(optim.sgd(4, 1.0)).compile(cache=LibraryCache(Path(sys.argv[1])), compilers=[compiler()])
        assert run.backend == "native"
        assert not any(m.startswith("tinygrad") for m in sys.modules)
    """)
    here = str(Path(__file__).parents[1])
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "c"), here], check=True)


def test_an_interrupt_while_compiling_leaves_no_half_library(tmp_path):
    slow = fake(tmp_path, f"echo started > {tmp_path}/go; sleep 5\n")
    code = (
        "import sys; from pathlib import Path\n"
        "from flocklet.kernels.compile.compilers import Compiler\n"
        "from flocklet.kernels.compile.library_cache import LibraryCache\n"
        "LibraryCache(Path(sys.argv[1])).build('key', '', Compiler((sys.argv[2],), 'gcc'), symbol='f', sizes=[])"
    )
    job = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "c"), slow.argv[0]], stderr=subprocess.DEVNULL
    )
    for _ in range(500):
        if (tmp_path / "go").exists():
            break
        subprocess.run(["sleep", "0.02"], check=True)
    job.send_signal(signal.SIGKILL)
    job.wait()
    assert not (tmp_path / "c").exists() or list((tmp_path / "c").glob("*.so")) == []
