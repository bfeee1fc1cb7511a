"""A small task that needs no data set: noisy blobs, one per class, in 16 dimensions."""

import numpy as np

from flocklet.models.mlp import Mlp
from flocklet.swarm.sim.simulation import Simulation
from flocklet.swarm.task import Task, split_by_class, split_dirichlet, split_iid


def blobs(
    peers: int, *, seed: int = 0, rows: int = 600, per_peer: int = 0, alpha: float = 0.0, sizes=(16, 12, 4)
):
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 1, (4, 16))
    labels = rng.integers(0, 4, rows + 200)
    features = (centres[labels] + rng.normal(0, 0.7, (rows + 200, 16))).astype(np.float32)
    train = labels[:rows]
    if per_peer:
        shares = split_by_class(train, peers, per_peer, rng)
    elif alpha:
        shares = split_dirichlet(train, peers, alpha, rng)
    else:
        shares = split_iid(np.arange(rows), peers, rng)
    probe = np.concatenate([np.flatnonzero(train == c)[:10] for c in range(4)])
    return Task(Mlp(sizes), features[:rows], train, features[rows:], labels[rows:], shares, probe=probe)


def simulate(text: str, task: Task, *, rounds: int = 10, seed: int = 1, **settings):
    swarm = Simulation(strategy=text, task=task, seed=seed, rounds=rounds, **settings).start()
    return swarm, swarm.run()
