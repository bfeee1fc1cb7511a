"""flocklet's swarm beside flwr, p2pfl and gossipy-dfl on one task: python benchmarks/swarm_peers.py [options] [--json FILE]

    --flwr VENV --p2pfl VENV --gossipy VENV    virtual environments made as below; what is not given is skipped

The task: scikit-learn's digits / 16, stratified 80/20, Dirichlet .5 over 10 peers (flocklet.digits.digits_task: the very
rows go to everybody as .npz), MLP 64-64-10, the same initial weights, 2 local epochs of plain SGD (B = 16, lr .3), all
peers train in every round, federated averaging, to 95 % test accuracy or a time limit. Each framework runs in a network
and pid namespace of its own (needs root and unshare): its loopback bytes are counted there and nothing survives it.

Environments (Python 3.11; figures beside each: what was needed beyond the first line):
    python -m venv F && F/bin/pip install 'flwr[simulation]'
        1.42.0 asks for a certifi younger than some indexes have, and pip then takes 1.41.0 without a word:
        F/bin/pip install --no-deps flwr==1.42.0 'uv>=0.13.5,<0.14'
    python -m venv P && P/bin/pip install p2pfl opendp PINS
    python -m venv G && G/bin/pip install gossipy-dfl torchvision
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DRIVERS = HERE / "peers"
TARGET, PEERS = 0.95, 10
FENCE = "ip link set lo up multicast on && ip route add 224.0.0.0/4 dev lo && exec \"$@\""


# -- running one framework inside its namespaces


@dataclass(frozen=True)
class Place:
    """Where one run happens: its folder, the split, the file of rounds, the framework's environment, the seed."""

    folder: Path
    task: Path
    events: Path
    venv: Path
    seed: int

    def python(self, script: str, *words: object) -> list[str]:
        """Return the command that runs a driver in the framework's environment."""
        return [str(self.venv / "bin" / "python"), str(DRIVERS / script), *map(str, words)]


def flocklet_processes(place: Place, codec: str) -> Iterator[list[str]]:
    yield [sys.executable, str(DRIVERS / "flocklet_digits.py"), "processes", codec, str(place.seed), str(place.events)]


def flocklet_simulation(place: Place, codec: str) -> Iterator[list[str]]:
    yield [sys.executable, str(DRIVERS / "flocklet_digits.py"), "simulation", codec, str(place.seed), str(place.events)]


def _flower_app(place: Place, address: str) -> list[str]:
    """Lay the app and Flower's own settings out in the folder; return the command that runs the app."""
    app, home = place.folder / "app", Path(os.environ["FLWR_HOME"])
    shutil.copytree(DRIVERS / "flower_app", app)
    shutil.copy(DRIVERS / "numpy_mlp.py", app / "digitsapp")
    home.mkdir()
    (home / "config.toml").write_text(f'[superlink]\ndefault = "here"\n[superlink.here]\n{address}\n')
    settings = f'task="{place.task}" events="{place.events}" peers={PEERS}'
    return [str(place.venv / "bin" / "flwr"), "run", str(app), "--stream", "--run-config", settings]


def flower_deployment(place: Place) -> Iterator[list[str]]:
    """SuperLink and ten SuperNodes; since 1.41 the link serves all its interfaces over HTTP on port 8000."""
    run = _flower_app(place, 'address = "127.0.0.1:8000"\ninsecure = true')
    programs = place.venv / "bin"
    yield [str(programs / "flower-superlink"), "--insecure"]
    _until_listening(8000)
    for i in range(PEERS):
        yield [
            str(programs / "flower-supernode"), "--insecure", "--superlink", "127.0.0.1:8000", "--port", str(9100 + i),
            "--node-config", f"partition-id={i} num-partitions={PEERS}",
        ]  # fmt: skip
    yield run


def flower_simulation(place: Place) -> Iterator[list[str]]:
    """Flower's simulation engine (Ray) with one CPU for each of its actors instead of two: all cores are used."""
    settings = f"num-supernodes={PEERS} client-resources-num-cpus=1"
    yield [*_flower_app(place, 'address = ":local-in-memory:"'), "--federation-config", settings]


def p2pfl_processes(place: Place) -> Iterator[list[str]]:
    for i in range(PEERS):
        yield place.python("p2pfl_digits.py", "peer", place.task, place.events, i, PEERS)


def p2pfl_simulation(place: Place) -> Iterator[list[str]]:
    yield place.python("p2pfl_digits.py", "simulation", place.task, place.events, PEERS)


STARTERS: dict[str, Callable[..., Iterator[list[str]]]] = {
    "flocklet-processes": flocklet_processes, "flocklet-simulation": flocklet_simulation,
    "flwr-deployment": flower_deployment, "flwr-simulation": flower_simulation,
    "p2pfl-processes": p2pfl_processes, "p2pfl-simulation": p2pfl_simulation,
}  # fmt: skip


def _until_listening(port: int, limit_s: float = 60.0) -> None:
    """Wait until somebody in this network namespace listens on a TCP port."""
    wanted, end = f":{port:04X} ", time.monotonic() + limit_s
    while time.monotonic() < end:
        lines = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
        if any(wanted in line and " 0A " in line for line in lines.splitlines()):
            return
        time.sleep(0.05)
    raise SystemExit(f"nobody listens on port {port} after {limit_s:g} s")


def pss_mb() -> float:
    """Return the memory of all other processes of this pid namespace, shared pages counted once."""
    total = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):
                for line in (folder / "smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1])
    return total / 1024


def inside(settings: dict[str, Any]) -> dict[str, Any]:
    """Run one framework to the target or the limit, as the first process of fresh namespaces."""
    folder = Path(settings["folder"])
    place = Place(
        folder, Path(settings["task"]), folder / "events", Path(settings["venv"]), settings["seed"]
    )
    os.environ.update(FLWR_HOME=str(folder / "home"))
    began, processes, peak, next_look = time.time(), [], 0.0, 0.0
    with (folder / "log").open("w") as log:
        for command in STARTERS[settings["case"]](place, *settings["options"]):
            processes.append(subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=folder))
        while time.time() - began < settings["limit_s"]:
            rows = _rows(place.events)
            if rows and rows[-1]["accuracy"] >= TARGET:
                break
            if processes[-1].poll() is not None and "simulation" in settings["case"]:
                break
            if time.monotonic() >= next_look:
                looked = time.monotonic()
                peak = max(peak, pss_mb())
                next_look = time.monotonic() + max(0.5, 20 * (time.monotonic() - looked))
            time.sleep(0.02)
    return {"rounds": [{**row, "at": row["at"] - began} for row in _rows(place.events)], "pss_mb": peak}


def _rows(events: Path) -> list[dict[str, Any]]:
    """Return the rounds that have been told so far, without Flower's look at the initial model."""
    if not events.exists():
        return []
    text = events.read_text()
    rows = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return [row for row in rows if row["round"] > 0]


def fenced(case: str, options: list[str], venv: Path, seed: int, limit_s: float, keep: Path | None) -> dict[str, Any]:
    """Run `inside` in namespaces of its own and return what it measured; nothing of it is left afterwards."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_task(folder / "task.npz", seed)
        settings = {
            "case": case, "options": options, "venv": str(venv), "seed": seed, "limit_s": limit_s, "folder": name,
            "task": str(folder / "task.npz"),
        }  # fmt: skip
        quiet = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        environment = {
            **quiet, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1", "HOME": name,
            "PYTHONDONTWRITEBYTECODE": "1", "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
        }  # fmt: skip
        command = [
            "unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", FENCE, "sh",
            sys.executable, str(Path(__file__).resolve()), "--inside", json.dumps(settings),
        ]  # fmt: skip
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=limit_s + 90, check=False
        )
        if keep is not None:
            shutil.copytree(folder, keep / f"{case}-{seed}", dirs_exist_ok=True, ignore_dangling_symlinks=True)
        if done.returncode:
            return {"rounds": [], "pss_mb": 0.0, "error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
        return json.loads(done.stdout.splitlines()[-1])


def write_task(file: Path, seed: int) -> None:
    """Write the split and the initial weights of a seed for those who do not know flocklet."""
    import numpy as np

    from flocklet.digits import digits_task
    from flocklet.swarm.start import start_model

    task = digits_task(PEERS, seed)
    weights = task.model.layout.split(start_model(task, seed, b""))
    rows = {f"s{i}": share for i, share in enumerate(task.shares)}
    np.savez(
        file, x=task.features, y=task.labels, test_x=task.test_features, test_y=task.test_labels, **weights, **rows
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("--case")
    parser.add_argument("--venv", type=Path, default=Path(sys.prefix))
    parser.add_argument("--limit", type=float, default=60)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--opt", nargs="*", default=[])
    args = parser.parse_args()
    if args.inside:
        print(json.dumps(inside(json.loads(args.inside))))
        return 0
    r = fenced(args.case, args.opt, args.venv.absolute(), 1, args.limit, args.keep)
    for x in r.pop("rounds"): print(x)
    print(r)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
