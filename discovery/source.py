"""Name the border between whoever learns about peers (sources) and the one table that keeps them."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from flocklet.discovery.address import Address

__all__ = ["Sighting", "Sink", "Source", "SourceKind"]


class SourceKind(enum.StrEnum):
    """Who says that a peer is there."""

    MDNS = "mdns"
    STATIC = "static"
    REMEMBERED = "remembered"
    TOLD = "told"


@dataclass(frozen=True)
class Sighting:
    """One statement of one source about one peer. Everything in it is a hint; only a handshake proves.

    `claimed_id` (32 B) is what the source says the device id is, None when it cannot know (static). `label`
    names a peer that has no id yet (the owner's HOST:PORT). `run` is a random word per process of the peer.
    `gone` means: the source no longer sees the peer. `problem` is one line about why no address is known.
    """

    source: SourceKind
    addresses: tuple[Address, ...] = ()
    claimed_id: bytes | None = None
    label: str = ""
    name: str = ""
    flock_tag: str | None = None
    version: int | None = None
    run: str = ""
    gone: bool = False
    problem: str = ""


Sink = Callable[[Sighting], object]


class Source(Protocol):
    """Something that learns about peers: mDNS, the owner, the memory, other peers.

    A source never stops the process because the network is unwell: `start` returns, and `problem` says in one
    line what is wrong ("" while all is well).
    """

    @property
    def kind(self) -> SourceKind:
        """Return what kind of source this is."""
        ...

    @property
    def problem(self) -> str:
        """Return one line about what is wrong, "" while all is well."""
        ...

    async def start(self, sink: Sink) -> None:
        """Begin to report sightings to `sink`, on the running event loop."""
        ...

    async def stop(self) -> None:
        """Report no more and release everything; safe to call twice."""
        ...

    def announce(self) -> None:
        """Say once more that we are here, where the source can say it; rate-limited, never raises."""
        ...
