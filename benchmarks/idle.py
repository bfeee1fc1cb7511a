"""What flocklet costs while nothing happens: memory and processor of an idle peer, start-up, disk.

Three peers run on loopback with mDNS on and the default pace of gossip; the first one, linked with both others, is
watched. Resident memory is what /proc/PID/status says at the end (peak: VmHWM), processor time is /proc/PID/stat over
the watched seconds. Start-up is the median over alternating runs of `flocklet --help` and of a bare interpreter.
The disk is that of a fresh virtual environment, with and without byte code, which holds no pip.

Run: python benchmarks/idle.py [--json FILE] [--seconds 60] [--runs 15] [--only peer,start,disk]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

from flocklet.demo.flock import PeerProcess, running_flock, wait_until
from flocklet.identity.flock import Flock

CHECKOUT = Path(__file__).resolve().parent.parent
TARGETS = {
    "rss_mb": ("resident memory of an idle peer, MB", 80.0),
    "cpu_percent": ("share of one core, idle, %", 0.5),
    "help_over_bare_ms": ("flocklet --help above a bare interpreter, ms", 150.0),
    "disk_mb": ("fresh environment without byte code, MB", 200.0),
    "dependencies": ("direct dependencies", 9.0),
}
NAMES = {
    "rss_start_mb": "resident memory before it met anybody, MB",
    "rss_peak_mb": "peak resident memory, MB",
    "links": "links while idle",
    "wakeups_per_s": "times it woke up, per second",
    "written_bytes": "bytes written to storage while idle",
    "bare_ms": "a bare interpreter, ms",
    "help_ms": "flocklet --help, ms",
    "help_over_bare_cpu_ms": "the same in processor time, ms",
    "disk_compiled_mb": "fresh environment with byte code, MB",
    "disk_pip_mb": "an empty environment with pip, for comparison, MB",
    "packages": "packages installed, without pip",
}


def memory_mb(pid: int, field: str) -> float:
    """Return a field of /proc/PID/status (VmRSS, VmHWM) in MB of a million bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ValueError(field)


def processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wakeups(pid: int) -> int:
    count = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        count += sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
    return count


def written_bytes(pid: int) -> int:
    """Return what the process has sent to storage so far."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


def measure_peer(seconds: float) -> dict[str, float]:
    def is_linked(peer: PeerProcess) -> bool:
        return bool(peer.ask("status")["links"] == 2)

    with tempfile.TemporaryDirectory() as folder, running_flock(Path(folder), 3, Flock.generate()) as peers:
        watched = peers[0]
        pid = int(watched.ask("status")["pid"])
        before_mb = memory_mb(pid, "VmRSS")
        if not wait_until(lambda: all(is_linked(peer) for peer in peers), 60.0):
            raise SystemExit("the three peers did not link within 60 s")
        time.sleep(10.0)  # the first exchanges are over
        start_s, start_cpu_s, start_wakeups = time.monotonic(), processor_s(pid), wakeups(pid)
        start_bytes = written_bytes(pid)
        time.sleep(seconds)
        spent_s = time.monotonic() - start_s
        return {
            "rss_start_mb": before_mb,
            "rss_mb": memory_mb(pid, "VmRSS"),
            "rss_peak_mb": memory_mb(pid, "VmHWM"),
            "cpu_percent": 100 * (processor_s(pid) - start_cpu_s) / spent_s,
            "wakeups_per_s": (wakeups(pid) - start_wakeups) / spent_s,
            "written_bytes": written_bytes(pid) - start_bytes,
            "links": watched.ask("status")["links"],
        }


def measure_start(runs: int) -> dict[str, float]:
    program = Path(sys.executable).with_name("flocklet")
    commands = {"bare": [sys.executable, "-c", "pass"], "help": [str(program), "--help"]}
    times: dict[str, list[float]] = {f"{name}_{kind}": [] for name in commands for kind in ("ms", "cpu_ms")}
    for _ in range(runs + 1):
        for name, command in commands.items():
            before, start_s = os.times(), time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            wall_s, after = time.perf_counter() - start_s, os.times()
            used_s = (
                after.children_user + after.children_system - before.children_user - before.children_system
            )
            times[f"{name}_ms"].append(1e3 * wall_s)
            times[f"{name}_cpu_ms"].append(1e3 * used_s)
    found = {name: statistics.median(values[1:]) for name, values in times.items()}
    found["help_over_bare_cpu_ms"] = statistics.fmean(times["help_cpu_ms"][1:]) - statistics.fmean(
        times["bare_cpu_ms"][1:]
    )
    del found["bare_cpu_ms"], found["help_cpu_ms"]
    return {**found, "help_over_bare_ms": found["help_ms"] - found["bare_ms"]}


def size_mb(folder: Path) -> float:
    seen: dict[int, int] = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        seen[status.st_ino] = status.st_blocks * 512
    return sum(seen.values()) / 1e6


def measure_disk() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        names = subprocess.check_output(["git", "ls-files"], cwd=CHECKOUT, text=True).splitlines()
        for name in names:
            if (CHECKOUT / name).is_file():
                (place / "source" / name).parent.mkdir(parents=True, exist_ok=True)
                (place / "source" / name).write_bytes((CHECKOUT / name).read_bytes())
        home = place / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
        pip = [
            sys.executable,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "-q",
            "--python",
            home / "bin/python",
        ]
        subprocess.run(
            [*pip, "install", "--no-compile", place / "source"], check=True, stderr=subprocess.DEVNULL
        )
        found = {"disk_mb": size_mb(home), "packages": len(list(home.rglob("*.dist-info")))}
        subprocess.run([home / "bin/python", "-m", "compileall", "-q", home / "lib"], check=False)
        found["disk_compiled_mb"] = size_mb(home)
        subprocess.run([sys.executable, "-m", "venv", place / "with-pip"], check=True)
        found["disk_pip_mb"] = size_mb(place / "with-pip")
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    return {**found, "dependencies": len(project["dependencies"])}


def main() -> None:
    parser = argparse.ArgumentParser(description="What flocklet costs while nothing happens.")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--only", default="start,peer,disk")
    arguments = parser.parse_args()
    parts = arguments.only.split(",")
    found: dict[str, float] = {}
    if "start" in parts:
        found |= measure_start(arguments.runs)
    if "peer" in parts:
        found |= measure_peer(arguments.seconds)
    if "disk" in parts:
        found |= measure_disk()
    print(f"{'what':<50} {'measured':>9} {'target':>9}")
    for name, value in found.items():
        label, most = TARGETS.get(name, (NAMES.get(name, name), None))
        verdict = "" if most is None else f"<= {most:g}" + ("" if value <= most else "  MISSED")
        print(f"{label:<50} {value:>9.2f} {verdict:>9}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
