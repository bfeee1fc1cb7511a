"""What one process of a real swarm is told: the settings, as JSON on its command line. Imports nothing heavy."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

__all__ = ["PeerSettings", "as_json"]


@dataclass(frozen=True)
class PeerSettings:
    """What one process needs to know; `ports` (of all peers, by index) stand in for mDNS where there is no multicast,
    `accomplices` are the indices of all attackers."""

    index: int
    count: int
    seed: int
    rounds: int
    strategy: str
    stop_at: float = 0.0
    ports: tuple[int, ...] = ()
    attack: str = ""
    accomplices: tuple[int, ...] = ()
    meet_s: float = 60.0
    run: str = ""
    model: str = "digits"
    compute: str = "numpy"


def as_json(settings: PeerSettings) -> str:
    """Return the argument of the process."""
    return json.dumps(asdict(settings))
