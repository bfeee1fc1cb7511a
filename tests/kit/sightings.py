"""What tests of mDNS announce, and a sink for what is heard."""

from __future__ import annotations

import os

from flocklet.discovery.announcement import Announcement
from flocklet.discovery.source import Sighting

LOOPBACK = ["127.0.0.1"]


def announcement(device_id: bytes | None = None, port: int = 4711, tag: str = "tag") -> Announcement:
    return Announcement(device_id or os.urandom(32), tag, os.urandom(4).hex(), port)


class Heard(list[Sighting]):
    """A sink that other test runs on this machine cannot confuse: it keeps only the ids it is asked for."""

    def __init__(self, *wanted: Announcement) -> None:
        super().__init__()
        self._ids = {one.device_id for one in wanted}
        self._runs = {one.run for one in wanted}

    def __call__(self, sighting: Sighting) -> None:
        if sighting.claimed_id in self._ids or sighting.run in self._runs:
            self.append(sighting)

    def known(self) -> list[bytes]:
        """Return the ids that are asked for: a source recognises them."""
        return list(self._ids)
