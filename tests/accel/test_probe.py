"""What computes here is found out in child processes that may die."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pytest

from flocklet.accel import choose as accel
from flocklet.accel.choose import BACKENDS, Backend, Report, Timing, choose, compilers_for, probe
from flocklet.kernels.compile.compilers import Compiler, find_compilers

FATAL = "import os, signal\nos.kill(os.getpid(), signal.{})\n"


def run_probe(tmp_path, monkeypatch, environ=None, **options):
    import os

    env = dict(os.environ, FLOCKLET_CC="none", FLOCKLET_GPU="none", FLOCKLET_CACHE=str(tmp_path)) | (
        environ or {}
    )
    return probe(cache_dir=tmp_path / "cache", environ=env, **options)


def fake_module(tmp_path, name: str, text: str) -> dict[str, str]:
    folder = tmp_path / "fake"
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(text)
    return {"PYTHONPATH": str(folder)}


@pytest.mark.timeout(60)
def test_an_import_that_dies_costs_a_line_and_is_remembered(tmp_path, monkeypatch):
    report = run_probe(tmp_path, monkeypatch, fake_module(tmp_path, "onnxruntime", FATAL.format("SIGILL")))
    assert [b.name for b in report.backends] == list(BACKENDS)
    assert report.backend("numpy").works
    assert not report.backend("native").works and "no C compiler" in report.backend("native").detail
    assert not report.backend("gpu").works and "no GPU driver" in report.backend("gpu").detail
    dead = report.backend("onnxruntime")
    assert not dead.works and "SIGILL" in dead.detail

    def refuse(*args, **options):
        raise AssertionError("a child was started although the answer is known")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    again = run_probe(tmp_path, monkeypatch, {"PYTHONPATH": str(tmp_path / "fake")})
    assert again.from_cache and again.backends == report.backends


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import time\ntime.sleep(60)\n", "no answer within"),
        ("raise ImportError('libgomp is missing')\n", "libgomp is missing"),
        ("import sys\nprint('banner')\nsys.exit(3)\n", "status 3"),
    ],
    ids=["hangs", "fails", "exits"],
)
def test_other_ways_to_fail(tmp_path, monkeypatch, text, why):
    timeout = 2.0 if "sleep" in text else 30.0
    report = run_probe(
        tmp_path,
        monkeypatch,
        fake_module(tmp_path, "onnxruntime", text),
        timeout_s=timeout,
        backends=["onnxruntime"],
    )
    assert not report.backend("onnxruntime").works
    assert why in report.backend("onnxruntime").detail


def test_a_cache_that_cannot_be_written_or_read_only_costs_time(tmp_path, monkeypatch):
    def probe(**options):
        return accel.probe(backends=["numpy"], **options)

    (tmp_path / "file").write_text("")
    assert probe(cache_dir=tmp_path / "file" / "x").backend("numpy").works
    (tmp_path / "accel.json").write_text('{"key": ')
    assert not probe(cache_dir=tmp_path).from_cache
    assert probe(cache_dir=tmp_path).from_cache
    data = json.loads((tmp_path / "accel.json").read_text())
    (tmp_path / "accel.json").write_text(json.dumps(data | {"key": "of another device"}))
    assert not probe(cache_dir=tmp_path).from_cache
    assert not probe(cache_dir=tmp_path, refresh=True).from_cache


def report_of(**times: float) -> Report:
    backends = tuple(Backend(name, name in times or name == "numpy", "") for name in BACKENDS)
    timings = [Timing("actor", 1, name, us) for name, us in times.items()]
    return Report(
        backends, (*timings, Timing("actor", 256, "numpy", 1.0), Timing("actor", 256, "native", 2.0))
    )


def test_the_fastest_backend_at_the_nearest_size_is_chosen():
    report = report_of(numpy=9.0, native=2.0, onnxruntime=6.0)
    assert choose(report, "actor", 2) == "native"
    assert choose(report, "actor", 1, among=("numpy", "onnxruntime")) == "onnxruntime"
    assert choose(report, "actor", 300) == "numpy"
    assert choose(report, "unknown", 1) == "numpy"
    assert choose(report_of(numpy=9.0), "actor", 1) == "numpy"
    assert any("actor x1" in line and "native 2.0 us" in line for line in report.lines())


def test_each_kind_of_work_has_its_own_fastest_compiler():
    backends = tuple(Backend(name, name in ("numpy", "native"), "") for name in BACKENDS)
    timings = (
        Timing("actor", 1, "native", 1.0, "gcc"),
        Timing("actor", 1, "native", 2.0, "clang"),
        Timing("training", 256, "native", 90.0, "gcc"),
        Timing("training", 256, "native", 60.0, "clang"),
        Timing("training", 256, "numpy", 50.0),
    )
    report = Report(backends, timings)
    zig, gcc, clang = (Compiler((name,), name) for name in ("zig", "gcc", "clang"))
    assert compilers_for(report, "actor", 4, [zig, clang, gcc]) == [gcc, clang, zig]
    assert compilers_for(report, "training", 100, [zig, gcc, clang]) == [clang, gcc, zig]
    assert compilers_for(report, "simulation", 100, [zig, gcc, clang]) == [zig, gcc, clang]
    assert (choose(report, "actor", 4), choose(report, "training", 256)) == ("native", "numpy")
    assert any("native (clang) 60.0 us" in line for line in report.lines())


@pytest.mark.timeout(60)
def test_the_probe_times_inference_training_and_simulation(tmp_path, monkeypatch):
    report = run_probe(tmp_path, monkeypatch, backends=["numpy"])
    assert {(t.workload, t.size) for t in report.timings} == {
        ("actor", 1),
        ("actor", 256),
        ("training", 256),
        ("simulation", 4096),
    }
    assert all(t.median_us > 0 for t in report.timings)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_probe_times_every_compiler_that_works(tmp_path, monkeypatch):
    found = find_compilers()
    if not found:
        pytest.skip("no C compiler on this machine")
    mine = shlex.join(found[0].argv)
    report = run_probe(tmp_path, monkeypatch, {"FLOCKLET_CC": mine}, backends=["native"], timeout_s=100.0)
    assert report.backend("native").works, report.backend("native").detail
    timed = [t.workload for t in report.timings if t.compiler == found[0].name]
    assert sorted(timed) == ["actor", "actor", "simulation", "training"]
    again = run_probe(tmp_path, monkeypatch, {"FLOCKLET_CC": mine}, backends=["native"])
    assert again.from_cache and again.timings == report.timings


def test_choosing_loads_nothing_heavy():
    code = (
        "import sys\nfrom flocklet.accel.choose import choose, Report\nchoose(Report(()), 'actor', 1)\n"
        "assert not {'numpy', 'tinygrad', 'onnxruntime'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
