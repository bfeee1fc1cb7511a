"""Find out what computes well on this device, and choose by measurement.

Each backend (NumPy, the native Program, a tinygrad GPU device, onnxruntime) is tried in a child process of
its own: an import that dies with SIGILL, a compiler that hangs or a driver that crashes costs a line in the
report and never this process. The result is kept as JSON under a key of everything it depends on (processor,
compilers, versions), so that a device measures once. Three kinds of work are timed, each at the sizes that matter:
"actor" (inference, rows per call), "training" (forward, backward and Adam on a batch) and "simulation" (vehicles
advanced by 16 steps); native code with every compiler that works, because none is the best at all of them. Nothing
heavy is imported here; `choose` and `compilers_for` only compare numbers.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flocklet.kernels.compile.compilers import Compiler, cpu_id, find_compilers
from flocklet.kernels.compile.library_cache import default_cache_dir

__all__ = ["BACKENDS", "Backend", "Report", "Timing", "choose", "compilers_for", "probe"]

BACKENDS = ("numpy", "native", "gpu", "onnxruntime")
_FORMAT = 3
_log = logging.getLogger("flocklet.accel")


@dataclass(frozen=True)
class Backend:
    """One way to compute: does it work here, and what is it (version, compiler, device) or why not."""

    name: str
    works: bool
    detail: str
    probe_s: float = 0.0


@dataclass(frozen=True)
class Timing:
    """Median microseconds per call of `workload` at `size` rows on `backend`, as measured on this device.

    `compiler` names the one that native code was built with.
    """

    workload: str
    size: int
    backend: str
    median_us: float
    compiler: str = ""

    @property
    def way(self) -> str:
        """Return backend and compiler in one phrase."""
        return f"{self.backend} ({self.compiler})" if self.compiler else self.backend


@dataclass(frozen=True)
class Report:
    """What works here and how fast; `from_cache` tells whether anything was run for it."""

    backends: tuple[Backend, ...]
    timings: tuple[Timing, ...] = field(default=())
    from_cache: bool = False

    def backend(self, name: str) -> Backend:
        """Return the entry for `name` (one of BACKENDS)."""
        return next(entry for entry in self.backends if entry.name == name)

    def lines(self) -> list[str]:
        """Return one plain line per backend, then one per measured workload and size."""
        out = [f"{b.name:<12} {'works' if b.works else 'no   '} {b.detail}" for b in self.backends]
        for workload, size in sorted({(t.workload, t.size) for t in self.timings}):
            rows = sorted((t for t in self.timings if (t.workload, t.size) == (workload, size)), key=_by_time)
            out.append(f"{workload} x{size}: " + ", ".join(f"{t.way} {t.median_us:.1f} us" for t in rows))
        return out


def _by_time(timing: Timing) -> float:
    return timing.median_us


def _nearest(report: Report, workload: str, size: int, among: Sequence[str]) -> list[Timing]:
    """Return what was measured of `workload` at the size next to `size`, fastest first."""
    rows = [
        t
        for t in report.timings
        if t.workload == workload and t.backend in among and report.backend(t.backend).works
    ]
    if not rows:
        return []
    nearest = min({t.size for t in rows}, key=lambda s: abs(s.bit_length() - size.bit_length()))
    return sorted((t for t in rows if t.size == nearest), key=_by_time)


def choose(report: Report, workload: str, size: int, *, among: Sequence[str] = BACKENDS) -> str:
    """Return the backend that was fastest at the measured size next to `size`, else NumPy."""
    rows = _nearest(report, workload, size, among)
    return rows[0].backend if rows else "numpy"


def compilers_for(
    report: Report, workload: str, size: int, found: Sequence[Compiler] | None = None
) -> list[Compiler]:
    """Return the compilers of this device (or `found`) for `Program.compile`, the fastest at this work first.

    Those that were not measured keep their order behind the others.
    """
    order = [t.compiler for t in _nearest(report, workload, size, ["native"])]
    known = find_compilers() if found is None else list(found)
    return sorted(known, key=lambda c: order.index(c.name) if c.name in order else len(order))


def probe(
    *,
    backends: Sequence[str] = BACKENDS,
    cache_dir: Path | None = None,
    refresh: bool = False,
    timeout_s: float = 60.0,
    environ: Mapping[str, str] | None = None,
    timer: Callable[[], float] = time.perf_counter,
) -> Report:
    """Return what works on this device, from the cache or by trying each backend in a child process.

    Never raises: a backend that cannot be tried is reported as not working, with the reason. `backends`
    limits what is tried, `timeout_s` bounds each child. A cache that cannot be read or written only costs the
    time of another probe.
    """
    env = dict(os.environ if environ is None else environ)
    folder = default_cache_dir(env).parent if cache_dir is None else cache_dir
    path = folder / "accel.json"
    key = _key(env)
    if not refresh:
        known = _load(path, key, backends)
        if known is not None:
            return known
    found: list[Backend] = []
    timings: list[Timing] = []
    for name in backends:
        start = timer()
        answer = _ask(name, env, timeout_s)
        found.append(Backend(name, bool(answer["works"]), str(answer["detail"]), round(timer() - start, 3)))
        for workload, size, us, *compiler in answer.get("timings", []):
            timings.append(Timing(str(workload), int(size), name, float(us), "".join(compiler)))
    report = Report(tuple(found), tuple(timings))
    for entry in found:
        if entry.name == "native" and not entry.works:
            _log.warning("kernels run in NumPy: %s", entry.detail)
    _save(path, key, report)
    return report


def _key(env: Mapping[str, str]) -> str:
    parts = [str(_FORMAT), cpu_id(), sys.version, platform.platform()]
    parts += [compiler.identity for compiler in find_compilers(env)] or ["none"]
    parts += [f"{name}={env.get(name, '')}" for name in ("FLOCKLET_CC", "FLOCKLET_GPU", "PYTHONPATH")]
    for package in ("flocklet", "numpy", "tinygrad", "onnxruntime"):
        try:
            parts.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            parts.append(f"{package} missing")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _ask(name: str, env: Mapping[str, str], timeout_s: float) -> dict[str, Any]:
    """Run one child; return its answer, or a refusal that says how it ended."""
    child_env = dict(env) | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            process = subprocess.Popen(  # noqa: S603 - our own module, no shell
                [sys.executable, "-P", "-m", "flocklet.accel.probe", name],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=child_env,
                start_new_session=True,
            )
        except OSError as error:
            return {"works": False, "detail": f"cannot start a child process: {error.strerror}"}
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return {"works": False, "detail": f"gave no answer within {timeout_s:g} s"}
        out.seek(0)
        err.seek(0)
        answer = _parse(out.read(1 << 20).decode("utf-8", "replace"))
        last = err.read()[-2000:].decode("utf-8", "replace").strip().splitlines()
    if code < 0:
        with contextlib.suppress(ValueError):
            return {
                "works": False,
                "detail": f"the process that tried it died of {signal.Signals(-code).name}",
            }
    if code != 0 or answer is None:
        return {"works": False, "detail": last[-1][:200] if last else f"ended with status {code}"}
    return answer


def _parse(text: str) -> dict[str, Any] | None:
    """Return the last line of `text` as an answer, or None; libraries may print before it."""
    lines = text.strip().splitlines()
    try:
        answer = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return answer if isinstance(answer, dict) and {"works", "detail"} <= answer.keys() else None


def _load(path: Path, key: str, names: Sequence[str]) -> Report | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["key"] != key:
            return None
        backends = tuple(
            Backend(str(b["name"]), bool(b["works"]), str(b["detail"]), float(b["probe_s"]))
            for b in data["backends"]
        )
        timings = tuple(
            Timing(
                str(t["workload"]),
                int(t["size"]),
                str(t["backend"]),
                float(t["median_us"]),
                str(t["compiler"]),
            )
            for t in data["timings"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if [b.name for b in backends] != list(names):
        return None
    return Report(backends, timings, from_cache=True)


def _save(path: Path, key: str, report: Report) -> None:
    data = {
        "key": key,
        "backends": [vars(b) for b in report.backends],
        "timings": [vars(t) for t in report.timings],
    }
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".accel-")
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            json.dump(data, out, indent=1)
        Path(temporary).replace(path)
    except OSError as error:
        _log.info("the result of the probe is not kept: %s", error.strerror)
