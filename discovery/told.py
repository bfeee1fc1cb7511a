"""Let peers tell peers about peers: a bounded list of (device id, address), only ever taken as hints.

Layout of the body of a `peers` frame, big-endian: u8 count, then per entry 32 B device id, u16 port, u8
size of the address (4 or 16), the address. Names and scopes are not told: a stranger must not make us
resolve names, and a scope means nothing on another machine.
"""

from __future__ import annotations

import ipaddress
import struct
from collections import OrderedDict
from collections.abc import Iterable

from flocklet.discovery.address import Address, is_dialable
from flocklet.discovery.source import Sighting, Sink, SourceKind
from flocklet.errors import WireError

__all__ = ["MAX_TOLD", "ToldPeer", "ToldSource", "decode_told", "encode_told"]

MAX_TOLD = 32
_HEAD = struct.Struct(">32sHB")

ToldPeer = tuple[bytes, Address]


def encode_told(peers: Iterable[ToldPeer]) -> bytes:
    """Pack up to `MAX_TOLD` (device id, address) pairs; names and link-local addresses are left out."""
    entries: list[bytes] = []
    for device_id, address in peers:
        if len(entries) == MAX_TOLD:
            break
        try:
            ip = ipaddress.ip_address(address.host)
        except ValueError:
            continue
        if ip.is_link_local or len(device_id) != 32:
            continue
        entries.append(_HEAD.pack(device_id, address.port, len(ip.packed)) + ip.packed)
    return bytes([len(entries)]) + b"".join(entries)


def decode_told(body: bytes) -> list[ToldPeer]:
    """Unpack what `encode_told` packs; raises WireError, and nothing else, on any other bytes."""
    if not body or body[0] > MAX_TOLD:
        raise WireError(f"a list of peers holds at most {MAX_TOLD} entries", reason="limit")
    peers: list[ToldPeer] = []
    at = 1
    for _ in range(body[0]):
        if len(body) - at < _HEAD.size:
            raise WireError("a list of peers is cut short")
        device_id, port, size = _HEAD.unpack_from(body, at)
        at += _HEAD.size
        packed = body[at : at + size]
        if size not in {4, 16} or len(packed) != size:
            raise WireError("a told address is neither IPv4 nor IPv6")
        at += size
        peers.append((device_id, Address(str(ipaddress.ip_address(packed)), port)))
    if at != len(body):
        raise WireError("bytes after the end of a list of peers")
    return peers


class ToldSource:
    """Peers told by peers. One teller can keep at most `per_teller` peers alive here; older ones are
    withdrawn.

    `allow_loopback` only for flocks on one machine: else a remote peer could point us at our own services.
    """

    kind = SourceKind.TOLD
    problem = ""

    def __init__(self, *, per_teller: int = 64, max_tellers: int = 256, allow_loopback: bool = False) -> None:
        self._per_teller = per_teller
        self._max_tellers = max_tellers
        self._allow_loopback = allow_loopback
        self._told: OrderedDict[bytes, OrderedDict[ToldPeer, None]] = OrderedDict()
        self._sink: Sink | None = None
        self.refused = 0

    async def start(self, sink: Sink) -> None:
        """Begin to pass on what links receive."""
        self._sink = sink

    async def stop(self) -> None:
        """Pass nothing on any more."""
        self._sink = None
        self._told.clear()

    def announce(self) -> None:
        """Do nothing: the peer process answers with `encode_told` when it gossips."""

    def receive(self, teller_id: bytes, body: bytes) -> int:
        """Take the body of a `peers` frame from an authenticated teller; return how many hints were passed
        on.

        Raises WireError for bytes that break the layout; entries that must not be dialled are only counted.
        """
        peers = decode_told(body)
        mine = self._told.setdefault(teller_id, OrderedDict())
        self._told.move_to_end(teller_id)
        passed = 0
        for device_id, address in peers:
            if device_id == teller_id or not is_dialable(address, allow_loopback=self._allow_loopback):
                self.refused += 1
                continue
            mine[(device_id, address)] = None
            mine.move_to_end((device_id, address))
            passed += 1
            self._give(device_id, (address,))
        while len(mine) > self._per_teller:
            (device_id, _), _ = mine.popitem(last=False)
            self._withdraw(device_id)
        while len(self._told) > self._max_tellers:
            _, oldest = self._told.popitem(last=False)
            for device_id, _ in oldest:
                self._withdraw(device_id)
        return passed

    def _withdraw(self, device_id: bytes) -> None:
        if not any(device_id == known for told in self._told.values() for known, _ in told):
            self._give(device_id, (), gone=True)

    def _give(self, device_id: bytes, addresses: tuple[Address, ...], *, gone: bool = False) -> None:
        if self._sink is not None:
            self._sink(Sighting(SourceKind.TOLD, addresses, claimed_id=device_id, gone=gone))
