"""Mutated model frames against p2pfl's own handler, inside p2pfl's environment: the control of target T17.

Run: python p2pfl_fuzz.py TASK FRAMES SEED FOLDER    prints one JSON line
A valid encoded model gets one to five byte mutations (as in flocklet's own test) and goes to the command that a running
node executes for a received model. A frame may be refused, taken, stop the whole node, or kill the process. Before
that, a frame that is a pickled call of open(FOLDER/executed, "w") shows whether bytes from the network are run.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import resource
import shlex
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from p2pfl.settings import Settings

Settings.general.DISABLE_RAY = True  # before p2pfl's logger is imported

from numpy_mlp import load, start  # noqa: E402
from p2pfl.communication.commands.weights.full_model_command import FullModelCommand  # noqa: E402
from p2pfl.learning.aggregators.fedavg import FedAvg  # noqa: E402
from p2pfl.learning.frameworks.p2pfl_model import P2PFLModel  # noqa: E402
from p2pfl.management.logger import logger  # noqa: E402
from p2pfl.node_state import NodeState  # noqa: E402


class Weights(P2PFLModel):
    """A list of arrays is the model; shapes are compared as p2pfl's PyTorch model does."""

    def get_parameters(self):
        return self.model

    def set_parameters(self, params):
        if isinstance(params, bytes):
            params, _ = self.decode_parameters(params)
        for mine, theirs in zip(self.model, params, strict=True):
            if mine.shape != theirs.shape:
                raise ValueError("shapes differ")
        self.model = list(params)


class Holder:
    """What the command needs of a learner."""

    def __init__(self, params):
        self.params = params

    def set_model(self, data):
        Weights(list(self.params)).set_parameters(data)


class Command:
    """Unpickling this opens a file for writing: harmless, and visible."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def mutated(frame: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(frame)
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(max(1, len(data))))
        match int(rng.integers(4)):
            case 0:
                data[at] ^= 1 << int(rng.integers(8))
            case 1:
                data[at] = int(rng.integers(256))
            case 2:
                del data[at : at + int(rng.integers(1, 9))]
            case _:
                data[at:at] = rng.bytes(int(rng.integers(1, 9)))
    return bytes(data)


def batch(path: str, first: int, last: int, seed: int) -> None:
    """Feed frames first..last - 1, telling one letter each: t aken, r efused, s topped, e scaped."""
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    logger.set_level("CRITICAL")
    params, stopped, state = start(load(path)), [], NodeState("fuzz")
    logger.register_node("fuzz")
    state.set_experiment("fuzz", 10)
    os.write(3, b"b")  # begun
    command = FullModelCommand(state, lambda: stopped.append(1), FedAvg(), Holder(params))
    frame = Weights(list(params)).encode_parameters()
    for number in range(first, last):
        data = mutated(frame, np.random.default_rng([seed, number]))
        before = len(stopped)
        state.aggregated_model_event.clear()
        try:
            command.execute("somebody", state.round, weights=data)
            letter = "s" if len(stopped) > before else "t" if state.aggregated_model_event.is_set() else "r"
        except BaseException:
            letter = "e"
        os.write(3, letter.encode())
    os._exit(0)


def main(path: str, frames: int, seed: int, folder: str) -> None:
    params, witness = start(load(path)), Path(folder) / "executed"
    with contextlib.suppress(
        Exception
    ):  # refused after the fact: the call was made while it was being decoded
        Weights(list(params)).set_parameters(pickle.dumps(Command(str(witness))))
    counts: Counter[str] = Counter()
    number, began = 0, time.perf_counter()
    while number < frames:
        words = [sys.executable, __file__, "batch", path, str(number), str(frames), str(seed)]
        command = shlex.join(words) + " 3>&1 >/dev/null 2>&1"
        done = subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, text=True, check=False)
        if not done.stdout:
            raise SystemExit("p2pfl's handler cannot be set up")
        counts.update(done.stdout[1:])
        number += len(done.stdout) - 1
        if number < frames:
            counts["died"] += 1
            number += 1  # the frame that killed it
    print(json.dumps({
        "executed": witness.exists(), "frames": frames, "taken": counts["t"], "refused": counts["r"],
        "stops the node": counts["s"], "escapes": counts["e"], "kills the process": counts["died"],
        "seconds": time.perf_counter() - began,
    }))  # fmt: skip
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    if sys.argv[1] == "batch":
        batch(sys.argv[2], *map(int, sys.argv[3:]))
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
