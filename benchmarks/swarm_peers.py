"""flocklet's swarm beside flwr, p2pfl and gossipy-dfl on one task: python benchmarks/swarm_peers.py [options] [--json FILE]

    --flwr VENV --p2pfl VENV --gossipy VENV    virtual environments made as below; what is not given is skipped

The task: scikit-learn's digits / 16, stratified 80/20, Dirichlet .5 over 10 peers (flocklet.swarm.tasks.digits.digits_task:
the very rows go to everybody as .npz), MLP 64-64-10, the same initial weights, 2 local epochs of plain SGD (B = 16, lr .3),
all peers train in every round, federated averaging, to 95 % test accuracy or a time limit. Each framework runs in a network
and pid namespace of its own (needs root and unshare): its loopback bytes are counted there and nothing survives it.

Environments (Python 3.11; figures beside each: what was needed beyond the first line):
    python -m venv F && F/bin/pip install 'flwr[simulation]'
        1.42.0 asks for a certifi younger than some indexes have, and pip then takes 1.41.0 without a word:
        F/bin/pip install --no-deps flwr==1.42.0 'uv>=0.13.5,<0.14'
    python -m venv P && P/bin/pip install p2pfl opendp 'pyarrow<20' 'huggingface_hub<1'
        0.4.4: opendp is imported and not declared; a younger pyarrow needs NumPy 2, which p2pfl rules out
    python -m venv G && G/bin/pip install gossipy-dfl torchvision
        0.0.1: torchvision is imported and not declared (5 GB with pip's torch; a CPU build of torch does)
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
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
FENCE = 'ip link set lo up multicast on && ip route add 224.0.0.0/4 dev lo && exec "$@"'


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


def flocklet(place: Place, way: str, codec: str) -> Iterator[list[str]]:
    yield [
        sys.executable,
        str(DRIVERS / "flocklet_digits.py"),
        way,
        codec,
        str(place.seed),
        str(place.events),
    ]


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


def p2pfl_together(place: Place, mode: str) -> Iterator[list[str]]:
    yield place.python("p2pfl_digits.py", mode, place.task, place.events, PEERS)


STARTERS: dict[str, Callable[..., Iterator[list[str]]]] = {
    "flocklet": flocklet,
    "flwr-deployment": flower_deployment, "flwr-simulation": flower_simulation,
    "p2pfl-processes": p2pfl_processes, "p2pfl-together": p2pfl_together,
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
    place = Place(folder, Path(settings["task"]), folder / "events", Path(settings["venv"]), settings["seed"])
    os.environ.update(FLWR_HOME=str(folder / "home"))
    began, processes, peak, next_look = time.time(), [], 0.0, 0.0
    with (folder / "log").open("w") as log:
        for command in STARTERS[settings["case"]](place, *settings["options"]):
            processes.append(
                subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=folder)
            )
        while time.time() - began < settings["limit_s"]:
            rows = _rows(place.events)
            if rows and rows[-1]["accuracy"] >= TARGET:
                break
            if processes[0].poll() is not None:
                break
            if time.monotonic() >= next_look:
                looked = time.monotonic()
                peak = max(peak, pss_mb())
                next_look = time.monotonic() + max(0.5, 20 * (time.monotonic() - looked))
            time.sleep(0.02)
    rows = [{**row, "at": row["at"] - began} for row in _rows(place.events)]
    end_s, sent, code = time.time() - began, loopback_bytes(), processes[0].poll()
    last = (folder / "log").read_text(errors="replace").strip().splitlines()[-1:] if code else []
    return {"rounds": rows, "pss_mb": peak, "end_s": end_s, "bytes": sent, "error": " ".join(last)}


def loopback_bytes() -> int:
    """Return what the loopback interface of this network namespace has sent."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    return next((int(line.split()[9]) for line in lines if line.strip().startswith("lo:")), 0)


def _rows(events: Path) -> list[dict[str, Any]]:
    """Return the rounds that have been told so far, without Flower's look at the initial model."""
    if not events.exists():
        return []
    text = events.read_text()
    rows = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return [row for row in rows if row["round"] > 0]


def fenced(
    case: str, options: list[str], venv: Path, seed: int, limit_s: float, keep: Path | None
) -> dict[str, Any]:
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
            "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
        }  # fmt: skip
        command = [
            "unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", FENCE, "sh",
            sys.executable, str(Path(__file__).resolve()), "--inside", json.dumps(settings),
        ]  # fmt: skip
        failed = {"rounds": [], "pss_mb": 0.0, "end_s": 0.0, "bytes": 0}
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=limit_s + 90, check=False
            )
        except subprocess.TimeoutExpired:
            return {**failed, "end_s": limit_s, "error": "it had to be killed 90 s after its limit"}
        if keep is not None:
            shutil.copytree(
                folder,
                keep / "-".join([case, *options, str(seed)]),
                dirs_exist_ok=True,
                ignore_dangling_symlinks=True,
            )
        if done.returncode:
            return {**failed, "error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
        return json.loads(done.stdout.splitlines()[-1])


def write_task(file: Path, seed: int) -> None:
    """Write the split and the initial weights of a seed for those who do not know flocklet."""
    import numpy as np

    from flocklet.swarm.start import start_model
    from flocklet.swarm.tasks.digits import digits_task

    task = digits_task(PEERS, seed)
    weights = task.model.layout.split(start_model(task, seed, b""))
    rows = {f"s{i}": share for i, share in enumerate(task.shares)}
    np.savez(
        file,
        x=task.features,
        y=task.labels,
        test_x=task.test_features,
        test_y=task.test_labels,
        **weights,
        **rows,
    )


# -- the table


@dataclass(frozen=True)
class Case:
    """One row: its name, how it is started, whose environment it needs ("" for flocklet), how slow it is."""

    name: str
    starter: str
    options: tuple[str, ...] = ()
    needs: str = ""
    code: tuple[str, ...] = ()


FLOWER_CODE = (
    "peers/flower_app/pyproject.toml",
    "peers/flower_app/digitsapp/client.py",
    "peers/flower_app/digitsapp/server.py",
)
CASES = (
    Case("flocklet, 10 processes, TLS, int4", "flocklet", ("processes", "int4"), code=("../examples/swarm_digits.py",)),
    Case("flocklet, 10 processes, TLS, fp32", "flocklet", ("processes", "fp32"), code=("../examples/swarm_digits.py",)),
    Case("flocklet, simulation, int4", "flocklet", ("simulation", "int4"), code=("../examples/swarm_digits.py",)),
    Case("flwr, SuperLink + 10 SuperNodes, no TLS", "flwr-deployment", needs="flwr", code=FLOWER_CODE),
    Case("flwr, simulation engine (Ray)", "flwr-simulation", needs="flwr", code=FLOWER_CODE),
    Case("p2pfl, 10 processes, gRPC, defaults", "p2pfl-processes", needs="p2pfl", code=("peers/p2pfl_digits.py",)),
    Case("p2pfl, one process, gRPC, its example's", "p2pfl-together", ("grpc",), "p2pfl", ("peers/p2pfl_digits.py",)),
    Case("p2pfl, one process, in memory", "p2pfl-together", ("memory",), "p2pfl", ("peers/p2pfl_digits.py",)),
)  # fmt: skip
NOTES = """
All train in every round; the model and its SGD are the same NumPy lines in flwr and p2pfl, so that nobody waits for
PyTorch to start. Flower starts a Python process per task (its default isolation) and polls every 3 s; p2pfl waits for
votes, heartbeats and gossip that comes to rest, with TLS as it ships. A model of 19 kB favours flocklet: with
large models computing dominates. flwr runs without evaluation on its SuperNodes, p2pfl's processes without Ray (each
would start a cluster), Flower's simulation with one CPU per actor instead of two. "at" is accuracy at the limit.
""".strip()


def code_lines(files: tuple[str, ...]) -> int:
    """Return the lines of user code: neither blank, nor comment, nor docstring; the model apart."""
    count = 0
    for name in files:
        in_docstring = False
        for line in (HERE / name).read_text().splitlines():
            text = line.strip()
            quotes = text.count('"""')
            if in_docstring or text.startswith('"""'):
                in_docstring = in_docstring != (quotes == 1)
            elif text and not text.startswith("#"):
                count += 1
    return count


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Return one run's figures; what the limit cut off is a lower bound and marked so."""
    rows, end_s = found["rounds"], found["end_s"]
    gaps = [b["at"] - a["at"] for a, b in itertools.pairwise(rows)]
    is_there = bool(rows) and rows[-1]["accuracy"] >= TARGET
    return {
        "rounds": len(rows), "reached": is_there, "accuracy": rows[-1]["accuracy"] if rows else None,
        "first_s": rows[0]["at"] if rows else end_s,
        "round_s": statistics.median(gaps) if gaps else end_s - (rows[0]["at"] if rows else 0.0),
        "round_is_bound": not gaps, "total_s": rows[-1]["at"] if is_there else end_s,
        "mb": (rows[-1]["bytes"] if is_there else found["bytes"]) / 1e6,
        "round_mb": (rows[-1]["bytes"] - rows[0]["bytes"]) / 1e6 / len(gaps) if gaps else None,
        "pss_mb": found["pss_mb"], "error": found.get("error", ""),
    }  # fmt: skip


def middle(runs: list[dict[str, Any]], key: str) -> float:
    """Return the median of a figure over the runs that have it."""
    return statistics.median([run[key] for run in runs if run[key] is not None] or [float("nan")])


def show(name: str, runs: list[dict[str, Any]], lines: int) -> None:
    """Print one row of the table, and what stopped a run before its limit."""
    bound = ">" if runs[0]["round_is_bound"] else ""
    if not any(run["rounds"] for run in runs):
        cells = f"no round in {middle(runs, 'total_s'):.0f} s".ljust(38)
    elif all(run["reached"] for run in runs):
        end = f"{middle(runs, 'rounds'):4.0f} rounds {middle(runs, 'total_s'):6.1f} s"
        cells = f"{middle(runs, 'first_s'):7.1f} {bound:>1}{middle(runs, 'round_s'):7.3f} {end:21}"
    else:
        end = f"{middle(runs, 'rounds'):4.0f} rounds, at {middle(runs, 'accuracy'):.3f}"
        cells = f"{middle(runs, 'first_s'):7.1f} {bound:>1}{middle(runs, 'round_s'):7.3f} {end:21}"
    print(
        f"{name:41} {cells} {middle(runs, 'mb'):7.2f} {middle(runs, 'round_mb'):8.3f} {middle(runs, 'pss_mb'):7.0f} "
        f"{lines:5} {len(runs):5}",
        flush=True,
    )
    for run in runs:
        if run["error"]:
            print(f"    seed {run['seed']} ended after {run['total_s']:.0f} s: {run['error']}", flush=True)


def compare(args: argparse.Namespace, result: dict[str, Any]) -> None:
    """T1 against flwr and p2pfl."""
    print(f"{'to 95 % on the digits, 10 peers':41} {'1st s':>7} {'round s':>8} {'to 95 %':21} {'MB':>7} {'MB/round':>8} "
          f"{'PSS MB':>7} {'lines':>5} {'seeds':>5}")  # fmt: skip
    table = result["cases"] = {}
    for case in CASES:
        if args.only and not any(word in case.name for word in args.only):
            continue
        venv = getattr(args, case.needs) if case.needs else Path(sys.prefix)
        if venv is None:
            print(f"{case.name:41} skipped: no environment given (--{case.needs})", flush=True)
            continue
        seeds = args.slow_seeds if case.needs else args.seeds
        limit_s = args.limit if case.needs else 60.0
        if case.starter == "flwr-deployment":  # its start alone takes a minute here
            limit_s = args.flower_limit
        runs = []
        for seed in range(1, seeds + 1):
            found = fenced(case.starter, list(case.options), venv.absolute(), seed, limit_s, args.keep)
            runs.append({**summary(found), "seed": seed, "curve": found["rounds"]})
        table[case.name] = runs
        show(case.name, runs, code_lines(case.code))
    ours = table.get(CASES[0].name)
    if not ours:
        return
    for case in CASES[3:]:
        if case.name in table and case.starter != "flwr-simulation" and "memory" not in case.options:
            theirs = table[case.name]
            faster = middle(theirs, "round_s") / middle(ours, "round_s")
            fewer = middle(theirs, "mb") / middle(ours, "mb")
            is_cut = not all(run["reached"] for run in theirs)
            least = "at least " if any(run["round_is_bound"] for run in theirs) else ""
            speed = f"{least}{faster:.0f}x faster per round (>= 20: {verdict(faster >= 20, bool(least))})"
            if not any(run["rounds"] for run in theirs):  # starting up is no round
                speed = "it ended no round within its limit, so no round is compared"
            bytes_ = f"{'at least ' if is_cut else ''}{fewer:.1f}x fewer bytes to 95 %"
            print(f"T1 {case.name}: {speed}; {bytes_} (>= 5: {verdict(fewer >= 5, is_cut)})")
            result.setdefault("ratios", {})[case.name] = {"round": faster, "bytes": fewer}
    print(NOTES)


def verdict(is_met: bool, is_least: bool = False) -> str:
    """Return the word for it; a lower bound can show that a target is met, never that it is not."""
    return "met" if is_met else "open: a longer --limit decides" if is_least else "NOT MET"


def simulate(args: argparse.Namespace, result: dict[str, Any]) -> None:
    """T16: node-rounds per second of the simulators, two SGD steps of 16 rows each, the same judging on both sides."""
    print(
        "\nT16, simulated node-rounds a second; 2 SGD steps of 16 rows, one model sent per node and round, one thread"
    )
    if args.gossipy is None:
        print("gossipy-dfl: skipped: no environment given (--gossipy)")
        return
    speeds = result["speed"] = []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    judging = {"0": "nobody judged", "1": "all judged every round, gossipy's default"}
    with tempfile.TemporaryDirectory() as name:
        task = Path(name) / "task.npz"
        write_task(task, 1)
        for judged, (nodes, rounds) in itertools.product(judging, ((10, 500), (100, 100), (400, 30))):
            gossipy = [args.gossipy.absolute() / "bin" / "python", DRIVERS / "gossipy_speed.py", task, nodes]
            flocklet = [sys.executable, DRIVERS / "flocklet_digits.py", "speed", nodes, rounds]
            commands = {"gossipy": [*gossipy, args.speed_seconds], "flocklet": flocklet}
            found: dict[str, list[float]] = {"gossipy": [], "flocklet": []}
            for _ in range(args.repeat):
                for who, command in commands.items():
                    words = [*map(str, command), judged]
                    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
                    if done.returncode:
                        print(f"{who}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
                        return
                    found[who].append(json.loads(done.stdout.splitlines()[-1])["rate"])
            rates = {who: statistics.median(values) for who, values in found.items()}
            ratio = rates["flocklet"] / rates["gossipy"]
            speeds.append({"nodes": nodes, "judging": judging[judged], **found, "ratio": ratio})
            print(f"n = {nodes:4}, {judging[judged]}: flocklet {rates['flocklet']:7.0f}, gossipy {rates['gossipy']:6.0f}, "
                  f"{ratio:5.1f}x (>= 10: {verdict(ratio >= 10)})", flush=True)  # fmt: skip


def fuzz(args: argparse.Namespace, result: dict[str, Any]) -> None:
    """T17's control: the same kind of mutated bytes for flocklet's decoder and for p2pfl's."""
    from hostile import decoder_run

    print(f"\nT17, {args.frames} mutated frames")
    ours = result["fuzz"] = {"flocklet": decoder_run(args.frames, 1)}
    print(f"flocklet's decoder: {ours['flocklet']}")
    if args.p2pfl is None:
        print("p2pfl's decoder: skipped: no environment given (--p2pfl)")
        return
    with tempfile.TemporaryDirectory() as name:
        write_task(Path(name) / "task.npz", 1)
        command = [str(args.p2pfl.absolute() / "bin" / "python"), str(DRIVERS / "p2pfl_fuzz.py"), f"{name}/task.npz",
                   str(args.frames), "1", name]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=name)
        if done.returncode:
            print(f"p2pfl's decoder: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
            return
        theirs = ours["p2pfl"] = json.loads(done.stdout.splitlines()[-1])
    print(f"p2pfl's decoder: {theirs}")
    print(
        f"a pickled call of open() sent to p2pfl as a model: {'EXECUTED' if theirs['executed'] else 'not executed'}"
    )


def why_not() -> str:
    """Return why no namespaces can be made here, "" if they can."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return "needs 'unshare' (util-linux) and 'ip' (iproute2)"
    done = subprocess.run(
        ["unshare", "--net", "--pid", "--fork", "--mount-proc", "sh", "-c", FENCE, "sh", "true"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return "" if done.returncode == 0 else f"no namespaces here (root?): {done.stderr.strip()[:80]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    for name in ("flwr", "p2pfl", "gossipy"):
        parser.add_argument(f"--{name}", type=Path, metavar="VENV", help=f"an environment with {name}")
    parser.add_argument("--seeds", type=int, default=3, help="runs of flocklet (default: 3)")
    parser.add_argument("--slow-seeds", type=int, default=1, help="runs of the others (default: 1)")
    parser.add_argument(
        "--limit", type=float, default=120.0, metavar="SECONDS", help="for each run of the others"
    )
    parser.add_argument(
        "--flower-limit", type=float, default=200.0, metavar="SECONDS", help="for SuperLink and SuperNodes"
    )
    parser.add_argument("--speed-seconds", type=float, default=4.0, help="length of a run of gossipy")
    parser.add_argument("--repeat", type=int, default=2, help="runs of each simulator for T16")
    parser.add_argument("--frames", type=int, default=20_000, help="mutated frames for T17's control")
    parser.add_argument(
        "--parts", nargs="*", default=["peers", "speed", "fuzz"], choices=["peers", "speed", "fuzz"]
    )
    parser.add_argument(
        "--only", nargs="*", default=[], metavar="WORD", help="rows whose name holds one of these"
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the logs of the frameworks")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    if args.inside:
        print(json.dumps(inside(json.loads(args.inside))))
        return 0
    result: dict[str, Any] = {}
    reason = why_not()
    if "peers" in args.parts and reason:
        print(f"SKIPPED the frameworks: {reason}")
    elif "peers" in args.parts:
        compare(args, result)
    if "speed" in args.parts:
        simulate(args, result)
    if "fuzz" in args.parts:
        fuzz(args, result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
