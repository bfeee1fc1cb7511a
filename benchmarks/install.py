"""T18: what installing and importing the swarm costs: python benchmarks/install.py [--json FILE]

Makes two fresh virtual environments with pip (as it is set up here): one with the packages that the swarm needs, one
with flocklet itself from this folder. Size: site-packages without pip and setuptools, byte code not counted. Import: a
new process, median of 3, wall time of `import flocklet.swarm` and of the launcher with its command line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLOOR = ("numpy", "msgpack", "zeroconf", "cryptography", "platformdirs")
TOOLS = ("pip", "setuptools", "wheel", "_distutils_hack", "distutils-precedence.pth", "pkg_resources")
MODULES = ("flocklet.swarm", "flocklet.swarm.sim.simulation", "flocklet.swarm.lan.peer_process")


def site_mb(venv: Path) -> tuple[float, int]:
    """Return the size of the packages (disk usage of files, MB) and how many there are."""
    site = next((venv / "lib").glob("python*/site-packages"))
    files = [
        file
        for entry in site.iterdir()
        if not entry.name.lower().startswith(TOOLS)
        for file in (entry.rglob("*") if entry.is_dir() else [entry])
        if file.is_file() and file.suffix != ".pyc"
    ]
    packages = [entry for entry in site.glob("*.dist-info") if not entry.name.startswith(TOOLS)]
    return sum(file.stat().st_size for file in files) / 1e6, len(packages)


def install(venv: Path, *what: str) -> float:
    """Make an environment and return the seconds that pip took."""
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    began = time.perf_counter()
    subprocess.run([venv / "bin" / "pip", "install", "-q", *what], check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def import_s(python: Path, module: str) -> float:
    """Return the median time of three imports, each in a process of its own; the first of four is not counted."""
    text = f"import time; began = time.perf_counter(); import {module}; print(time.perf_counter() - began)"
    runs = [
        float(
            subprocess.run([python, "-c", text], check=True, capture_output=True, text=True, cwd="/").stdout
        )
        for _ in range(4)
    ]
    return statistics.median(runs[1:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    result: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        floor, whole = Path(name) / "floor", Path(name) / "whole"
        took = install(floor, *FLOOR)
        size, count = site_mb(floor)
        result |= {"floor_mb": size, "floor_packages": count, "floor_s": took}
        print(
            f"T18 {' '.join(FLOOR)}: {size:.1f} MB in {count} packages (<= 100: {'met' if size <= 100 else 'NOT MET'})"
        )
        took = install(whole, str(ROOT))
        size, count = site_mb(whole)
        result |= {"flocklet_mb": size, "flocklet_packages": count, "flocklet_s": took}
        print(f"T18 flocklet with all that it requires: {size:.1f} MB in {count} packages")
        for module in MODULES:
            seconds = result[f"import {module}"] = import_s(whole / "bin" / "python", module)
            print(f"T18 import {module}: {seconds:.2f} s (<= 1: {'met' if seconds <= 1 else 'NOT MET'})")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
