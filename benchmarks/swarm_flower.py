"""Flower on the task of T1, its default deployment: python benchmarks/swarm_flower.py VENV [--rounds 2] [--json FILE]

VENV is a virtual environment with `pip install flwr` and nothing else. Starts a SuperLink and ten SuperNodes on the
loopback interface, runs federated averaging on the same split, model (64-64-10) and local steps (2 epochs, 16 rows,
lr 0.3) as `flocklet swarm --peers 10`, and prints seconds, loopback bytes and accuracy per round. Run it where nothing
survives: unshare --net --pid --fork --mount-proc sh -c 'ip link set lo up; python benchmarks/swarm_flower.py VENV'.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from flocklet.digits import digits_task

PROJECT = """[project]
name = "digits"
version = "1.0.0"
dependencies = []
[tool.flwr.app]
publisher = "flocklet"
[tool.flwr.app.components]
serverapp = "digitsapp.server:app"
clientapp = "digitsapp.client:app"
[tool.flwr.app.config]
rounds = ROUNDS
"""
MODEL = """import numpy as np
TASK = dict(np.load("DATA"))
def forward(p, x):
    h = np.maximum(x @ p[1] + p[0], 0)
    return h, h @ p[3] + p[2]
def init():
    r = np.random.default_rng(1)
    return [np.zeros(64, "f"), (r.normal(0, (2 / 64) ** .5, (64, 64))).astype("f"),
            np.zeros(10, "f"), (r.normal(0, (1 / 64) ** .5, (64, 10))).astype("f")]
def train(p, x, y):
    r = np.random.default_rng()
    for _ in range(2):
        order = r.permutation(len(x))
        for at in range(0, len(x), 16):
            rows = order[at:at + 16]
            h, z = forward(p, x[rows])
            z = np.exp(z - z.max(1, keepdims=True)); z /= z.sum(1, keepdims=True)
            z[np.arange(len(rows)), y[rows]] -= 1; z /= len(rows)
            back = (z @ p[3].T) * (h > 0)
            p = [p[0] - .3 * back.sum(0), p[1] - .3 * x[rows].T @ back, p[2] - .3 * z.sum(0), p[3] - .3 * h.T @ z]
    return [a.astype("f") for a in p]
def accuracy(p):
    return float((forward(p, TASK["tx"])[1].argmax(1) == TASK["ty"]).mean())
"""
CLIENT = """from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from digitsapp.model import TASK, train
app = ClientApp()
@app.train()
def fit(msg: Message, context: Context):
    i = context.node_config["partition-id"]
    x, y = TASK["x"][TASK[f"s{i}"]], TASK["y"][TASK[f"s{i}"]]
    p = train(msg.content["arrays"].to_numpy_ndarrays(), x, y)
    content = RecordDict({"arrays": ArrayRecord(p), "metrics": MetricRecord({"num-examples": len(x)})})
    return Message(content=content, reply_to=msg)
"""
SERVER = """import json, time
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from digitsapp.model import accuracy, init
app = ServerApp()
@app.main()
def main(grid: Grid, context: Context) -> None:
    def judge(round, arrays):
        with open("/proc/net/dev") as f:
            sent = next(int(line.split()[9]) for line in f if line.strip().startswith("lo:"))
        a = accuracy(arrays.to_numpy_ndarrays())
        with open("OUT", "a") as f:
            f.write(json.dumps({"round": round, "at": time.time(), "bytes": sent, "accuracy": a}) + "\\n")
        return MetricRecord({"accuracy": a})
    FedAvg(fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=10, min_available_nodes=10).start(
        grid=grid, initial_arrays=ArrayRecord(init()), num_rounds=context.run_config["rounds"], evaluate_fn=judge)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("venv", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--limit", type=float, default=140.0, metavar="SECONDS")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = measure(args.venv.resolve() / "bin", Path(name), args.rounds, args.limit)
    for row in rows:
        print(row)
    if args.json:
        args.json.write_text(json.dumps(rows), encoding="utf-8")


def measure(programs: Path, folder: Path, rounds: int, limit_s: float) -> list[dict[str, float]]:
    """Return one row per round that ended within the limit; round 0 is the start."""
    task, out, data = digits_task(10, 1), folder / "out", folder / "task.npz"
    shares = {f"s{i}": share for i, share in enumerate(task.shares)}
    np.savez(data, x=task.features, y=task.labels, tx=task.test_features, ty=task.test_labels, **shares)
    app = folder / "app" / "digitsapp"
    app.mkdir(parents=True)
    (app / "__init__.py").touch()
    (app.parent / "pyproject.toml").write_text(PROJECT.replace("ROUNDS", str(rounds)))
    (app / "model.py").write_text(MODEL.replace("DATA", str(data)))
    (app / "client.py").write_text(CLIENT)
    (app / "server.py").write_text(SERVER.replace("OUT", str(out)))
    home = folder / "home"
    home.mkdir()
    (home / "config.toml").write_text(
        '[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:9093"\ninsecure = true\n'
    )
    environment = {
        **os.environ, "FLWR_HOME": str(home), "PATH": f"{programs}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
        "FLWR_TELEMETRY_ENABLED": "0", "PYTHONPATH": "",
    }  # fmt: skip
    log = (folder / "log").open("w")
    began, processes = time.time(), []

    def start(*command: str) -> None:
        processes.append(
            subprocess.Popen(
                [str(programs / command[0]), *command[1:]], env=environment, stdout=log, stderr=log
            )
        )

    try:
        start("flower-superlink", "--insecure")
        time.sleep(5)
        for i in range(10):
            start(
                "flower-supernode", "--insecure", "--superlink", "127.0.0.1:9092", "--port",
                str(9100 + i), "--node-config", f"partition-id={i} num-partitions=10",
            )  # fmt: skip
        time.sleep(5)
        start("flwr", "run", str(app.parent), "--stream")
        while time.time() - began < limit_s and (
            not out.exists() or len(out.read_text().splitlines()) <= rounds
        ):
            time.sleep(0.5)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
    if not out.exists():
        raise SystemExit((folder / "log").read_text()[-3000:])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    return [{**row, "seconds": row.pop("at") - began} for row in rows]


if __name__ == "__main__":
    main()
