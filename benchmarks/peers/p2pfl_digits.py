"""p2pfl's side of benchmarks/swarm_peers.py, inside p2pfl's own environment: a NumPy learner behind its own interfaces.

Run: python p2pfl_digits.py peer TASK EVENTS INDEX COUNT    one node per process, gRPC, default settings
     python p2pfl_digits.py grpc TASK EVENTS COUNT          all nodes in one process, gRPC, set_standalone_settings
     python p2pfl_digits.py memory TASK EVENTS COUNT        the same in memory
     python p2pfl_digits.py memory-ray TASK EVENTS COUNT    the same with the learners as actors of Ray, as p2pfl ships
Ray is left out of the others: p2pfl starts a cluster as soon as it is imported, which would be one per process.
"""

from __future__ import annotations

import os
import sys
import threading
import time

import numpy as np
from datasets import Dataset
from numpy_mlp import accuracy, load, share, start, tell, train
from p2pfl.settings import Settings

Settings.general.DISABLE_RAY = sys.argv[1] != "memory-ray"  # before p2pfl's logger is imported

from p2pfl.learning.dataset.p2pfl_dataset import P2PFLDataset  # noqa: E402
from p2pfl.learning.frameworks.learner import Learner  # noqa: E402
from p2pfl.learning.frameworks.p2pfl_model import P2PFLModel  # noqa: E402
from p2pfl.management.logger import logger  # noqa: E402
from p2pfl.node import Node  # noqa: E402

ROUNDS, PORT = 40, 6660


class Weights(P2PFLModel):
    """A list of arrays is the model."""

    def get_parameters(self):
        return self.model

    def set_parameters(self, params):
        if isinstance(params, bytes):
            params, info = self.decode_parameters(params)
            self.additional_info.update(info)
        self.model = list(params)

    def get_framework(self):
        return "numpy"


class NumpyLearner(Learner):
    """Two epochs of SGD on this node's rows."""

    def fit(self):
        rows = self.get_data()
        x, y = np.array(rows._data["x"], np.float32), np.array(rows._data["y"])
        model = self.get_model()
        model.set_parameters(train(model.get_parameters(), x, y, np.random.default_rng()))
        model.set_contribution([self.addr], len(y))
        return model

    def interrupt_fit(self):
        pass

    def evaluate(self):
        return {}

    def get_framework(self):
        return "numpy"


def make_node(task, index, **more):
    x, y = share(task, index)
    data = P2PFLDataset(Dataset.from_dict({"x": x, "y": y}), batch_size=16, dataset_name="digits")
    return Node(Weights(start(task)), data, learner=NumpyLearner(), **more)


def watch(node, task, events):
    """Tell each round that this node has finished, until it stops learning."""
    seen = 0
    while seen < ROUNDS:
        time.sleep(0.02)
        if not node.get_neighbors():
            os.write(2, b"the first node has lost all its neighbours (heartbeat timeouts) and learns alone\n")
            os._exit(1)
        now = node.state.round
        if now is not None and now > seen:
            seen = now
            tell(events, seen, accuracy(node.get_model().get_parameters(), task))


def arrived(path):
    return len(open(path).readlines()) if os.path.exists(path) else 0


def arrive(path, index, count):
    """Add a line to a file and wait until everybody has."""
    with open(path, "a") as file:
        file.write(f"{index}\n")
    while arrived(path) < count:
        time.sleep(0.02)


def peer(path, events, index, count):
    logger.set_level("ERROR")
    task, index, count = load(path), int(index), int(count)
    node = make_node(task, index, addr=f"127.0.0.1:{PORT + index}")
    node.start()
    arrive(f"{events}.started", index, count)
    while (
        arrived(f"{events}.met") < index
    ):  # one after the other, as p2pfl's own examples connect a full mesh
        time.sleep(0.02)
    for other in range(index):
        node.connect(f"127.0.0.1:{PORT + other}")
    arrive(f"{events}.met", index, count)
    if index:
        threading.Event().wait()
    node.set_start_learning(rounds=ROUNDS, epochs=2, trainset_size=count)
    watch(node, task, events)


def together(path, events, count, is_grpc):
    from p2pfl.communication.protocols.protobuff.grpc import GrpcCommunicationProtocol
    from p2pfl.communication.protocols.protobuff.memory import MemoryCommunicationProtocol
    from p2pfl.utils.topologies import TopologyFactory, TopologyType
    from p2pfl.utils.utils import set_standalone_settings, wait_convergence

    set_standalone_settings()
    logger.set_level("ERROR")
    task, count, nodes = load(path), int(count), []
    for i in range(count):
        protocol = GrpcCommunicationProtocol() if is_grpc else MemoryCommunicationProtocol()
        addr = f"127.0.0.1:{PORT + i}" if is_grpc else f"node-{i}"
        nodes.append(make_node(task, i, addr=addr, protocol=protocol))
        nodes[-1].start()
    TopologyFactory.connect_nodes(TopologyFactory.generate_matrix(TopologyType.FULL, count), nodes)
    wait_convergence(nodes, count - 1, only_direct=False, wait=60)
    nodes[0].set_start_learning(rounds=ROUNDS, epochs=2, trainset_size=count)
    watch(nodes[0], task, events)


if __name__ == "__main__":
    mode, words = sys.argv[1], sys.argv[2:]
    if mode == "peer":
        peer(*words)
    else:
        together(*words, is_grpc=mode == "grpc")
