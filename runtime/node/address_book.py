"""The peers that a device remembers, as discovery asks for them."""

from __future__ import annotations

from collections.abc import Iterable

from flocklet.device.device import Device
from flocklet.discovery import Address
from flocklet.discovery.remembered import RememberedPeer

__all__ = ["AddressBook"]


class AddressBook:
    """The store as discovery sees it: what it knew at the start, and a place to write to on the device's thread."""

    def __init__(self, device: Device) -> None:
        self._store = store = device.store
        self._clock = device.clock
        self._most = device.quotas.peers
        self._known = [
            RememberedPeer(peer.device_id, peer.name, tuple(Address(h, p) for h, p in peer.addresses))
            for peer in store.peers()
            if peer.banned is None
        ]

    def remembered_peers(self) -> Iterable[RememberedPeer]:
        """Return every peer that was remembered at the start and is not banned."""
        return self._known

    def remember_peer(self, peer: RememberedPeer) -> None:
        """Keep where a peer is; of too many the one that was not heard for longest is forgotten."""
        addresses = [(address.host, address.port) for address in peer.addresses]
        self._store.remember_peer(peer.device_id, peer.name, addresses, self._clock.time(), most=self._most)
