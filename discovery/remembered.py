"""Report the peers that proved themselves before: read from, and written to, whatever store the peer
process has.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from flocklet.discovery.address import Address
from flocklet.discovery.record import PeerRecord
from flocklet.discovery.source import Sighting, Sink, SourceKind
from flocklet.errors import StoreError

__all__ = ["AddressBook", "RememberedPeer", "RememberedSource"]

_log = logging.getLogger("flocklet.discovery")


@dataclass(frozen=True)
class RememberedPeer:
    """A peer that once passed a handshake: `device_id` 32 B, `addresses` best first."""

    device_id: bytes
    name: str
    addresses: tuple[Address, ...]


class AddressBook(Protocol):
    """What discovery asks of a store; both may raise StoreError, which never stops discovery."""

    def remembered_peers(self) -> Iterable[RememberedPeer]:
        """Return every peer that was remembered."""
        ...

    def remember_peer(self, peer: RememberedPeer) -> None:
        """Keep `peer`, replacing what was kept under its device id."""
        ...


class RememberedSource:
    """Peers of earlier runs."""

    kind = SourceKind.REMEMBERED

    def __init__(self, book: AddressBook) -> None:
        self._book = book
        self._problem = ""
        self._written: dict[bytes, RememberedPeer] = {}

    @property
    def problem(self) -> str:
        """Return why the memory cannot be used, "" while it can."""
        return self._problem

    async def start(self, sink: Sink) -> None:
        """Report every remembered peer once."""
        try:
            peers = list(self._book.remembered_peers())
        except StoreError as error:
            self._fail(error)
            return
        for peer in peers:
            sink(Sighting(SourceKind.REMEMBERED, peer.addresses, claimed_id=peer.device_id, name=peer.name))

    async def stop(self) -> None:
        """Do nothing: nothing runs."""

    def announce(self) -> None:
        """Do nothing: a memory cannot be told that we are here."""

    def remember(self, record: PeerRecord) -> None:
        """Keep the proven addresses of an authenticated peer, latest first; writes only what changed."""
        if record.device_id is None or not record.is_authenticated:
            return
        proven = [state for state in record.addresses.values() if state.proven_s is not None]
        proven.sort(key=lambda state: -(state.proven_s or 0.0))
        peer = RememberedPeer(record.device_id, record.name, tuple(state.address for state in proven))
        if not peer.addresses or self._written.get(peer.device_id) == peer:
            return
        try:
            self._book.remember_peer(peer)
        except StoreError as error:
            self._fail(error)
        else:
            self._written[peer.device_id] = peer

    def _fail(self, error: StoreError) -> None:
        self._problem = f"peers cannot be remembered: {error}"
        _log.warning("%s", self._problem)
