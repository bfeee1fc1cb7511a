"""Announce and browse for a few seconds and report who is there: the live half of `flocklet doctor`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from flocklet.clock import Clock, SystemClock
from flocklet.discovery.announcement import Announcement
from flocklet.discovery.source import Sighting

__all__ = ["ProbeReport", "probe"]


@dataclass(frozen=True)
class ProbeReport:
    """Who was heard: one sighting per record, ours and others' flock apart; `problem` as of the source."""

    own_flock: tuple[Sighting, ...]
    other_flocks: tuple[Sighting, ...]
    hears_itself: bool
    packets_in: int
    problem: str


async def probe(
    flock_tag: str,
    *,
    keys: tuple[bytes, ...] = (),
    seconds: float = 3.0,
    own_id: bytes | None = None,
    interfaces: Sequence[str] | None = None,
    clock: Clock | None = None,
) -> ProbeReport:
    """Listen for `seconds`; never raises because of the network.

    The probe takes a random id and port 0, which no peer dials, so it disturbs nobody and is not mistaken for a clone of
    a running peer. `keys` are the flock's discovery keys. `own_id` (32 B) is left out of the report: a peer process of this
    very device.
    """
    from flocklet.discovery.mdns import MdnsSource

    heard: dict[str, Sighting] = {}

    def sink(sighting: Sighting) -> None:
        if (own_id is None or sighting.claimed_id != own_id) and not sighting.gone:
            heard[sighting.run] = sighting

    me = Announcement(os.urandom(32), flock_tag, os.urandom(8).hex(), port=0, keys=keys)
    known = () if own_id is None else (own_id,)
    source = MdnsSource(me, interfaces=interfaces, clock=clock, known=lambda: known)
    await source.start(sink)
    try:
        await (clock or SystemClock()).sleep(seconds)
        own = tuple(s for s in heard.values() if s.flock_tag == flock_tag)
        others = tuple(s for s in heard.values() if s.flock_tag != flock_tag)
        return ProbeReport(own, others, source.counts["own"] > 0, source.packets.packets_in, source.problem)
    finally:
        await source.stop()
