"""The model that every framework of benchmarks/swarm_peers.py trains: an MLP 64-64-10 with ReLU and plain SGD, in NumPy.

Runs inside each framework's own environment, so it imports nothing but NumPy and the standard library. Parameters are
[w0, b0, w1, b1]. The steps are flocklet's (Sgd.plan): ceil(epochs * n / batch) batches cut from shuffled passes.
"""

from __future__ import annotations

import json
import time

import numpy as np

EPOCHS, BATCH, LR = 2, 16, np.float32(0.3)


def load(path: str) -> dict[str, np.ndarray]:
    """Return x, y, test_x, test_y, w0, b0, w1, b1 and the rows s0, s1, ... of each peer."""
    with np.load(path) as task:
        return dict(task)


def start(task: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Return everybody's initial weights."""
    return [task["w0"], task["b0"], task["w1"], task["b1"]]


def share(task: dict[str, np.ndarray], peer: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the features and labels that this peer holds."""
    rows = task[f"s{peer}"]
    return task["x"][rows], task["y"][rows]


def train(
    params: list[np.ndarray], x: np.ndarray, y: np.ndarray, rng: np.random.Generator
) -> list[np.ndarray]:
    """Return the parameters after two epochs of SGD."""
    w0, b0, w1, b1 = (np.array(p, np.float32) for p in params)
    n, batch = len(x), min(BATCH, len(x))
    steps = -(-EPOCHS * n // batch)
    order = np.concatenate([rng.permutation(n) for _ in range(-(-steps * batch // n))])
    for rows in order[: steps * batch].reshape(steps, batch):
        hidden = np.maximum(x[rows] @ w0 + b0, 0)
        error = hidden @ w1 + b1
        error = np.exp(error - error.max(axis=1, keepdims=True))
        error /= error.sum(axis=1, keepdims=True)
        error[np.arange(batch), y[rows]] -= 1
        error /= np.float32(batch)
        back = (error @ w1.T) * (hidden > 0)
        w1 -= LR * (hidden.T @ error)
        b1 -= LR * error.sum(axis=0)
        w0 -= LR * (x[rows].T @ back)
        b0 -= LR * back.sum(axis=0)
    return [w0, b0, w1, b1]


def accuracy(params: list[np.ndarray], task: dict[str, np.ndarray]) -> float:
    """Return the share of test rows that are classified correctly."""
    w0, b0, w1, b1 = params
    guess = (np.maximum(task["test_x"] @ w0 + b0, 0) @ w1 + b1).argmax(axis=1)
    return float((guess == task["test_y"]).mean())


def loopback_bytes() -> int:
    """Return the bytes that the loopback interface of this network namespace has sent."""
    with open("/proc/net/dev", encoding="ascii") as lines:
        return next((int(line.split()[9]) for line in lines if line.strip().startswith("lo:")), 0)


def tell(path: str, round: int, accuracy: float) -> None:
    """Append one line: a round has ended with this accuracy, now, after these bytes."""
    facts = {"round": round, "at": time.time(), "bytes": loopback_bytes(), "accuracy": accuracy}
    with open(path, "a", encoding="ascii") as file:
        file.write(json.dumps(facts) + "\n")
