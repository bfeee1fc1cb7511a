"""gossipy-dfl's side of benchmarks/swarm_peers.py, inside its own environment: how many node-rounds a second it simulates.

Run: python gossipy_speed.py TASK NODES SECONDS 0|1    prints one JSON line; 1: evaluate every node in every round
Push gossip on the full graph as in gossipy's own examples (round of 100 time steps, merge, then train), no delays, no
drops; each node holds 32 rows, so one local epoch is two SGD steps of 16 rows.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import time
import types

import numpy as np
import torch

try:
    import torchvision  # noqa: F401  undeclared by gossipy, which needs it for downloads that are not used here
except Exception:
    sys.modules["torchvision"] = types.ModuleType("torchvision")

from gossipy.core import AntiEntropyProtocol, CreateModelMode, StaticP2PNetwork
from gossipy.data import DataDispatcher
from gossipy.data.handler import ClassificationDataHandler
from gossipy.model.handler import TorchModelHandler
from gossipy.model.nn import TorchMLP
from gossipy.node import GossipNode
from gossipy.simul import GossipSimulator, SimulationReport
from numpy_mlp import load
from torch.nn import CrossEntropyLoss
from torch.optim import SGD


def main(path: str, nodes: int, seconds: float, is_judged: bool) -> None:
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    task, rng = load(path), np.random.default_rng(0)
    rows = np.concatenate([rng.choice(len(task["x"]), 32, replace=False) for _ in range(nodes)])
    tests = (torch.tensor(task["test_x"]), torch.tensor(task["test_y"])) if is_judged else (None, None)
    data = ClassificationDataHandler(
        torch.tensor(task["x"][rows]), torch.tensor(task["y"][rows]), *tests, test_size=0.0
    )
    dispatcher = DataDispatcher(data, n=nodes, eval_on_user=False, auto_assign=False)
    dispatcher.set_assignments([list(range(32 * i, 32 * i + 32)) for i in range(nodes)], None)
    handler = TorchModelHandler(
        net=TorchMLP(64, 10, (64,)), optimizer=SGD, optimizer_params={"lr": 0.3}, criterion=CrossEntropyLoss(),
        local_epochs=1, batch_size=16, create_model_mode=CreateModelMode.MERGE_UPDATE,
    )  # fmt: skip
    crowd = GossipNode.generate(dispatcher, StaticP2PNetwork(nodes), handler, round_len=100, sync=True)
    simulator = GossipSimulator(crowd, dispatcher, delta=100, protocol=AntiEntropyProtocol.PUSH)
    report, chunk, rounds = SimulationReport(), 1 if is_judged else max(1, 200 // nodes), 0
    simulator.add_receiver(report)
    simulator.init_nodes()
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        while time.perf_counter() - began < seconds:
            simulator.start(n_rounds=chunk)
            rounds += chunk
    took = time.perf_counter() - began
    found = np.mean(
        [(node.model_handler.model(torch.tensor(task["test_x"])).argmax(1).numpy() == task["test_y"]).mean()
         for node in list(crowd.values())[:10]]
    )  # fmt: skip
    trained = report._sent_messages  # every message is merged and trained on once
    print(json.dumps({"rate": trained / took, "rounds": rounds, "accuracy": float(found)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4] == "1")
