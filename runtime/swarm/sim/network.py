"""The simulated network: every message becomes a frame of flocklet.wire.frame, with its real bytes, and is decoded from it.

A frame is encoded and decoded once and delivered to all its receivers; `is_decoded` off skips the decoding (a test
keeps both runs equal, bit for bit) and saves a third of a simulation's time. Instead of an Ed25519 signature it carries
the 64 bytes of its sender's stamp, which nobody checks: inside one process there is nobody to lie about the sender.
Latency, bandwidth (one uplink queue per peer), loss and partitions are drawn from the run's seed. All messages that
arrive at one instant share one timer.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from flocklet.errors import WireError
from flocklet.identity.key import device_id_of
from flocklet.swarm.protocols import Message, PeerId, generator
from flocklet.wire.body import Limits, pack_body, unpack_body
from flocklet.wire.frame import PREFIX, PROTOCOL_VERSION, SIGNATURE_BYTES, encode_hop, join_frame
from flocklet.wire.messages import check_header

__all__ = ["Conditions", "SimLink", "SimNetwork"]

DECODE_LIMITS = Limits(max_bytes=64 << 20, max_elements=1 << 24)
_PING_BYTES = len(encode_hop("offer", {"round": 1000}, rid=1000)) + len(encode_hop("ok", {}, re=1000))


@dataclass(frozen=True)
class Conditions:
    """What the network is like: seconds, bytes per second (None: unlimited), share of lost messages."""

    latency_s: float = 0.005
    jitter_s: float = 0.0
    bandwidth: float | None = None
    loss: float = 0.0
    is_decoded: bool = True


class SimNetwork:
    """All simulated links of one run."""

    def __init__(self, conditions: Conditions, seed: int) -> None:
        self.conditions = conditions
        self.links: dict[PeerId, SimLink] = {}
        self.islands: dict[PeerId, int] = {}  # peers on different islands cannot reach each other
        self.bytes = 0
        self.messages: Counter[str] = Counter()
        self.pings = 0
        self.on_delivery: Callable[[PeerId, Message, int], None] = lambda receiver, message, size: None
        self.rng = generator(seed, b"", "network")
        self._arrivals: dict[float, list[tuple[PeerId, Message, int]]] = {}

    def link(self, public_key: bytes) -> SimLink:
        """Return a new link for the peer with this key; it is off until `is_on` is set."""
        link = SimLink(self, public_key)
        self.links[link.me] = link
        return link

    def partition(self, groups: Iterable[Iterable[PeerId]]) -> None:
        """Cut the network into islands; no groups heals it."""
        self.islands = {peer: number for number, group in enumerate(groups) for peer in group}

    def can_reach(self, sender: PeerId, receiver: PeerId) -> bool:
        """Return whether both are on and on one island."""
        return self.links[sender].is_on and self.can_arrive(sender, receiver)

    def can_arrive(self, sender: PeerId, receiver: PeerId) -> bool:
        """Return whether what is on its way arrives: its sender may be gone by then."""
        link = self.links.get(receiver)
        return link is not None and link.is_on and self.islands.get(sender) == self.islands.get(receiver)

    def delay(self) -> float:
        """Return the latency of one message."""
        jitter = self.conditions.jitter_s
        return self.conditions.latency_s + (float(self.rng.random()) * jitter if jitter else 0.0)

    def post(self, due_s: float, receiver: PeerId, parcel: Message, size: int) -> None:
        """Deliver a parcel at that time, behind those that were posted for it before."""
        due = self._arrivals.get(due_s)
        if due is None:
            due = self._arrivals[due_s] = []
            asyncio.get_running_loop().call_at(due_s, self._deliver, due_s)
        due.append((receiver, parcel, size))

    def _deliver(self, due_s: float) -> None:
        for receiver, parcel, size in self._arrivals.pop(due_s):
            if self.can_arrive(parcel.sender, receiver):
                self.on_delivery(receiver, parcel, size)
                self.links[receiver].take(parcel)


class SimLink:
    """The `Link` of one simulated peer."""

    def __init__(self, network: SimNetwork, public_key: bytes) -> None:
        self.me = device_id_of(public_key)
        self.is_on = False
        self.bytes_out = 0
        self._network = network
        self._key = public_key
        self._secret = hashlib.blake2b(public_key, digest_size=32, person=b"flocklet-secret").digest()
        self._stamp = hashlib.blake2b(digest_size=SIGNATURE_BYTES, key=public_key).digest()
        self._handler: Callable[[Message], None] = lambda message: None
        self._seq = 0
        self._free_s = 0.0

    def peers(self) -> list[PeerId]:
        """Return who is on and reachable, as discovery would show."""
        network = self._network
        return sorted(peer for peer in network.links if peer != self.me and network.can_reach(self.me, peer))

    def listen(self, handler: Callable[[Message], None]) -> None:
        """Call `handler` with every message."""
        self._handler = handler

    def send(self, peers: Sequence[PeerId], message: Message) -> None:
        """Encode once; deliver after latency and the time that the uplink needs."""
        if not peers or not self.is_on:
            return
        network, now_s = self._network, asyncio.get_running_loop().time()
        conditions = network.conditions
        sealed = self._seal(message)
        size = len(sealed)
        if conditions.is_decoded:
            parcel = self.open(sealed)
        else:
            parcel = Message(
                message.type, message.round, message.body, message.base, message.codec, message.n, message.steps,
                self.me, self._seq, sealed if message.type == "member" else b"",
            )  # fmt: skip
            if (known := message.__dict__.get("_vector")) is not None:
                parcel.__dict__["_vector"] = known  # finite, or it could not have been encoded
        for receiver in peers:
            if not network.can_reach(self.me, receiver):
                continue
            network.bytes += size
            network.messages[message.type] += 1
            self.bytes_out += size
            if conditions.loss and network.rng.random() < conditions.loss:
                continue
            self._free_s = max(self._free_s, now_s)
            if conditions.bandwidth is not None:
                self._free_s += size / conditions.bandwidth
            network.post(self._free_s + network.delay(), receiver, parcel, size)

    def take(self, parcel: Message) -> None:
        """Hear a message."""
        self._handler(parcel)

    async def ping(self, peer: PeerId, round: int, timeout_s: float) -> bool:
        """Return whether the peer is there, after a round trip or the timeout."""
        network = self._network
        network.pings += 1
        is_there = network.can_reach(self.me, peer)
        if is_there:
            network.bytes += _PING_BYTES
        trip_s = 2 * network.delay() if is_there else timeout_s
        await asyncio.sleep(min(trip_s, timeout_s))
        return is_there and trip_s <= timeout_s and network.can_reach(self.me, peer)

    def _seal(self, message: Message) -> bytes:
        self._seq += 1
        header: dict[str, Any] = {
            "v": PROTOCOL_VERSION, "type": message.type, "run": bytes(8), "src": self._key, "seq": self._seq,
            "round": message.round, "n": message.n,
        }  # fmt: skip
        if message.base:
            header["base"] = message.base
        if message.codec:
            header["codec"] = message.codec
        if message.steps:
            header["K"] = message.steps
        check_header(header)
        return join_frame(header, pack_body(message.body), self._stamp)

    def sign(self, statement: bytes) -> bytes:
        """Return 64 bytes that only this link can make: nobody in this process reads another's key."""
        return hashlib.blake2b(statement, digest_size=SIGNATURE_BYTES, key=self._secret).digest()

    def is_signed(self, author: PeerId, statement: bytes, proof: bytes) -> bool:
        """Return whether the link of `author` made that proof."""
        link = self._network.links.get(author)
        return link is not None and link.sign(statement) == proof

    def open(self, sealed: bytes) -> Message:
        """Decode the bytes of a frame as a receiver does, all but the signature."""
        length, header_size = PREFIX.unpack_from(sealed)
        if len(sealed) != 4 + length or length < 2 + header_size + SIGNATURE_BYTES:
            raise WireError("these bytes are not exactly one frame", reason="length")
        body_at = PREFIX.size + header_size
        header = msgpack.unpackb(sealed[PREFIX.size : body_at])
        body = unpack_body(memoryview(sealed)[body_at:-SIGNATURE_BYTES], DECODE_LIMITS)
        return Message(
            header["type"],
            header.get("round", 0),
            body,
            header.get("base", b""),
            header.get("codec", ""),
            header.get("n", 0),
            header.get("K", 0),
            sender=device_id_of(header["src"]),
            seq=header["seq"],
            sealed=sealed if header["type"] == "member" else b"",
        )
