"""Same seed, same bytes, on every machine: pinned hashes of runs whose arithmetic is exact or element by element.

The learner below uses no matrix product and no transcendental function, so its bits do not depend on the BLAS or the
processor. A change here means that peers of two versions would compute different models: say so in the changelog.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

from flocklet.models.layout import Layout
from flocklet.swarm.task import Task
from kit.swarm_tasks import simulate


class Centre:
    """Learn the mean of the rows: gradient = params - mean of the batch; a row's label is the nearer of two signs."""

    layout = Layout({"w0": (6, 2), "b0": (4,)})
    output = ("w0", "b0")

    def init(self, rng: np.random.Generator) -> Any:
        return rng.integers(-8, 8, 16).astype(np.float32) / np.float32(8)

    def gradient(self, params: Any, features: Any, labels: Any) -> Any:
        total = features[:, 0].copy()
        for row in range(1, features.shape[1]):
            total += features[:, row]
        total /= np.float32(features.shape[1])
        return params - total, np.zeros(len(params), np.float32)

    def predict(self, params: Any, features: Any) -> Any:
        return np.broadcast_to((features[:, 0] > 0).astype(np.intp), (len(params), len(features)))

    def accuracy(self, params: Any, features: Any, labels: Any) -> Any:
        return (self.predict(params, features) == labels).mean(axis=1)


def centres(peers: int) -> Task:
    rng = np.random.default_rng(5)
    features = (rng.integers(-64, 64, (peers * 12 + 20, 16)) / 64).astype(np.float32)
    labels = (features[:, 0] > 0).astype(np.int64)
    cut = peers * 12
    shares = tuple(np.arange(i * 12, (i + 1) * 12) for i in range(peers))
    return Task(Centre(), features[:cut], labels[:cut], features[cut:], labels[cut:], shares)


MODELS = {
    "fedavg": "169bd3f021bd0444",
    "fedavg|int8": "c0105addce3e4698",
    "modest(s=4)|int4": "7733d90eb9a3ebce",
    "ring": "cf2b216dabb35d48",
    "ring(q=2)|int8": "23f2bc9bd02e5a22",
    "regular(4)|topk(0.25)": "ea95d3153984ee10",
    "regular(4)|trimmed(0.2)": "f108950d706dc358",
    "full|median": "61536ddbc25b4a82",
    "onepeer": "6d117677823747cd",
    "regular(4,heal=2)": "ffaf73f4a271ddbe",
    "full|vc": "368d344b2f76e97c",
    "window(0.05)|int8": "694e2541c59500c8",
    "buffer(4)": "85ed4c300bcb6971",
    "async": "ff56bc1a84100eb4",
    "poisson(train=0.1,swap=0.05)": "ae2619cbd266a686",
    "full|cclip": "e82a213a3d0ebd39",
    "full|metropolis": "7064b44c2ef3c7af",
}


@pytest.mark.parametrize("text", MODELS)
def test_a_seed_gives_the_models_that_it_always_gave(text: str) -> None:
    report = simulate(text + "|sgd(lr=0.25,steps=3,batch=4)", centres(8), rounds=6, seed=7)[1]
    named = "".join(f"{round} {name}\n" for round, name in sorted(set(report.model_ids)))
    assert hashlib.blake2b(named.encode(), digest_size=8).hexdigest() == MODELS[text]


def test_another_seed_gives_others() -> None:
    found = {tuple(simulate("ring", centres(8), rounds=2, seed=seed)[1].model_ids) for seed in (7, 8)}
    assert len(found) == 2
