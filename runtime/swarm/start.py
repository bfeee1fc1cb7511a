"""What the peers of a run begin with: identities and models, all from the run's seed."""

from __future__ import annotations

import hashlib

from flocklet.identity.key import Identity
from flocklet.models.layout import Vector
from flocklet.swarm.protocols import PeerId, generator
from flocklet.swarm.task import Task

__all__ = ["peer_identities", "start_model"]


def peer_identities(count: int, seed: int) -> list[Identity]:
    """Return the identities of the peers of a run, from its seed; the device of index i has the i-th."""
    return [
        Identity.from_seed(
            hashlib.blake2b(b"%d/%d" % (seed, i), digest_size=32, person=b"flocklet-swarm").digest()
        )
        for i in range(count)
    ]


def start_model(task: Task, seed: int, me: PeerId, *, is_shared: bool = True) -> Vector:
    """Return the model that a peer starts from: everybody's, or one of its own."""
    return task.model.init(generator(seed, b"" if is_shared else me, "start"))
