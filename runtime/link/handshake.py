"""Prove who we are inside the TLS channel: hello, proof, welcome (PROTOCOL.md, "Handshake"). Sans-I/O.

    client                          server
    hello  ---------------------->
           <----------------------  hello          both at once
    proof  ---------------------->                 after the server's hello
           <----------------------  welcome        after the proof holds

    transcript = BLAKE2b-256(client hello frame || server hello frame || hash of the server's certificate in TLS
                             || hash of the client's certificate), personalised "flocklet-link"
    signature  = Ed25519("flocklet proof 2 " || role || " " || transcript)
    mac        = HMAC-SHA256(flock proof key, the same message); empty in an open flock. A hello names the four newest
                 secrets by their tags; each side proves its newest that both have

The role stops reflection, the nonces in the hellos stop replay, the server's certificate binds the proof to this
channel, and the whole hellos stop a downgrade. The server shows its mac only after the client's held.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flocklet.errors import PeerRefused, WireError
from flocklet.identity.certificate import certificate_hash, certificate_key
from flocklet.identity.flock import Flock
from flocklet.identity.key import Identity, device_id_of, is_small_order, short_id, verify
from flocklet.link.refusal import heard_reason, refusal
from flocklet.wire.frame import PROTOCOL_VERSION, Frame, encode_hop
from flocklet.wire.kinds import Bye, Hello, Proof, Refuse, Welcome
from flocklet.wire.schema import Message, schema_of

__all__ = ["Handshake", "Nonces", "Party", "PeerInfo"]

NONCE_BYTES = 32
RUN_BYTES = 8
MAX_SCHEMAS = 32

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Party:
    """What this process brings to every handshake; `run` is a nonce drawn once per process."""

    identity: Identity
    certificate: bytes
    flock: Flock
    run: bytes = field(default_factory=lambda: secrets.token_bytes(RUN_BYTES))
    compressors: tuple[str, ...] = ("zlib",)
    schemas: tuple[bytes, ...] = ()
    max_frame_bytes: int = 1024 * 1024
    data_credits: int = 32
    control_credits: int = 64
    versions: tuple[int, int] = (PROTOCOL_VERSION, PROTOCOL_VERSION)
    features: tuple[str, ...] = ()
    records: bytes = b""  # flock records that a peer should hear even if it gives us no link


@dataclass(frozen=True)
class PeerInfo:
    """What a peer proved and announced."""

    device_id: bytes
    public_key: bytes
    run: bytes
    certificate_hash: bytes
    version: int
    compressors: tuple[str, ...]
    schemas: tuple[bytes, ...]
    max_frame_bytes: int
    data_credits: int
    control_credits: int
    features: frozenset[str] = frozenset()  # the kinds that it speaks beyond those of every link
    is_newest: bool = True  # it proved our newest secret, not an older one

    @property
    def name(self) -> str:
        """The short id, for logs."""
        return short_id(self.device_id)


class Nonces:
    """Remember the nonces of proofs that held, so that a replay is named as one; bounded, oldest out first."""

    def __init__(self, size: int = 4096) -> None:
        self._size = size
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def __contains__(self, nonce: bytes) -> bool:
        return nonce in self._seen

    def add(self, nonce: bytes) -> None:
        """Remember one more."""
        self._seen[nonce] = None
        if len(self._seen) > self._size:
            self._seen.popitem(last=False)


class Handshake:
    """One side of one handshake: `start()` once, then `receive(frame)` until `peer` is set.

    Both return bytes to send. `server_certificate` is what TLS showed the client, or the server's own. A refusal is
    raised as PeerRefused; `by_peer` then tells that the peer refused, and nothing needs to be sent back.
    """

    def __init__(
        self,
        party: Party,
        *,
        is_server: bool,
        server_certificate: bytes,
        address: str,
        expected: bytes | None = None,
        may_join: Callable[[bytes, bytes, bool], str | None] = lambda device_id, run, is_newest: None,
        on_brought: Callable[[bytes, bytes], None] = lambda device_id, records: None,
        nonces: Nonces | None = None,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._party = party
        self._is_server = is_server
        self._server_certificate = server_certificate
        self._address = address
        self._expected = expected
        self._may_join = may_join
        self._on_brought = on_brought
        self._nonces = nonces if nonces is not None else Nonces()
        self._nonce = random_bytes(NONCE_BYTES)
        self._server_key = b""
        self._own_hello = b""
        self._hello: Hello | None = None
        self._message = b""  # what both sides prove, without the role
        self._theirs: tuple[int, int] | None = None
        self._claimed = ""  # the short id of the key that the other side announced
        self.by_peer = False
        self.peer: PeerInfo | None = None

    def start(self) -> bytes:
        """Return our hello; a client raises PeerRefused here if the server's certificate is not the expected one."""
        party = self._party
        if not self._is_server:
            self._server_key = key = certificate_key(self._server_certificate)
            if self._expected is not None and device_id_of(key) != self._expected:
                raise self._refused(
                    "key", f"expected {short_id(self._expected)}, found {short_id(device_id_of(key))}"
                )
        self._own_hello = encode_hop(
            Hello(
                versions=party.versions,
                key=party.identity.public_key,
                certificate=b"" if self._is_server else party.certificate,
                nonce=self._nonce,
                run=party.run,
                tags=party.flock.tags,
                compressors=party.compressors,
                schemas=party.schemas[:MAX_SCHEMAS],
                frame=party.max_frame_bytes,
                features=party.features,
            )
        )
        return self._own_hello

    def receive(self, frame: Frame) -> bytes:
        """Return what to send in answer to a handshake message."""
        if frame.type == "refuse":
            self.by_peer = True
            reason = heard_reason(frame.body.get("reason"))
            detail = self._who_is_old() if reason == "version" else ""
            raise refusal(reason, self._address, by_peer=True, detail=detail)
        if frame.type == "hello" and self._hello is None:
            return self._receive_hello(frame)
        awaited = "proof" if self._is_server else "welcome"
        if frame.type != awaited or self._hello is None:
            raise self._refused("order", f"a {frame.type!r}")
        return self._receive_proof(frame, self._hello)

    def refuse(self, error: PeerRefused) -> bytes:
        """Return the message that tells the peer why; empty if it was the peer who refused.

        A client that has the server's welcome says `bye`: for the server the link has begun.
        """
        if self.by_peer:
            return b""
        is_begun = self.peer is not None and not self._is_server
        return encode_hop(Bye(error.reason) if is_begun else Refuse(error.reason))

    def _refused(self, reason: str, detail: str = "") -> PeerRefused:
        return refusal(reason, self._address, detail=detail)

    def _receive_hello(self, frame: Frame) -> bytes:
        party = self._party
        self._read_versions(frame.body)
        hello = self._hello = self._read(Hello, frame)
        if hello.nonce == self._nonce:
            raise self._refused("reflected")
        if hello.nonce in self._nonces:
            raise self._refused("replay")
        if is_small_order(hello.key):
            raise self._refused("key", "its key is one that anybody can sign with")
        if (certificate_key(hello.certificate) if self._is_server else self._server_key) != hello.key:
            raise self._refused("key", "the announced key is not that of the certificate")
        if not set(hello.tags) & set(party.flock.tags):
            raise self._refused("flock")
        if self._is_server:
            hellos, client_certificate = frame.raw + self._own_hello, hello.certificate
        else:
            hellos, client_certificate = self._own_hello + frame.raw, party.certificate
        digest = hashlib.blake2b(hellos, digest_size=32, person=b"flocklet-link")
        digest.update(certificate_hash(self._server_certificate))
        digest.update(certificate_hash(client_certificate))
        self._message = digest.digest()
        return b"" if self._is_server else self._proof(Proof)

    def _read_versions(self, body: Mapping[str, Any]) -> None:
        """Judge what every version's hello has, before anything that they may not have in common."""
        ours, theirs, key = self._party.versions, body.get("versions"), body.get("key")
        if type(theirs) is not list or len(theirs) != 2 or any(type(v) is not int for v in theirs):
            raise self._refused("garbage", "a hello without versions")
        self._theirs = (theirs[0], theirs[1])
        if type(key) is bytes and len(key) == 32:
            self._claimed = short_id(device_id_of(key))
        if not max(ours[0], theirs[0]) <= min(ours[1], theirs[1]):
            raise self._refused("version", self._who_is_old())

    def _who_is_old(self) -> str:
        """Return who has to be updated; the name is what the other side says, which nothing has proved yet."""
        ours, theirs = self._party.versions, self._theirs
        if theirs is None:
            return ""
        name = f"{self._claimed} at {self._address}" if self._claimed else self._address
        spoken = f"it speaks {theirs[0]} to {theirs[1]}, we {ours[0]} to {ours[1]}"
        return f"update {'this device' if theirs[0] > ours[1] else name}: {spoken}"

    def _read(self, message: type[M], frame: Frame) -> M:
        try:
            read: M = schema_of(message).read(frame.body)
            return read
        except WireError as error:
            raise self._refused("garbage", str(error)) from error

    def _proof(self, message: type[Proof] | type[Welcome]) -> bytes:
        party, proven = self._party, _proven(self._message, is_server=self._is_server)
        common = self._hello.tags if self._hello is not None else ()
        signature, mac = party.identity.sign(proven), party.flock.prove(proven, common)
        return encode_hop(message(signature, mac, party.data_credits, party.control_credits, party.records))

    def _receive_proof(self, frame: Frame, hello: Hello) -> bytes:
        party = self._party
        proof: Proof | Welcome = self._read(Proof, frame) if self._is_server else self._read(Welcome, frame)
        signature, mac = proof.signature, proof.mac
        message = _proven(self._message, is_server=not self._is_server)
        if not verify(hello.key, signature, message):
            # The opposite role or our own key: somebody sends our own proof back.
            ours = _proven(self._message, is_server=self._is_server)
            own_key = party.identity.public_key
            if verify(hello.key, signature, ours) or verify(own_key, signature, ours):
                raise self._refused("reflected")
            raise self._refused("proof")
        rank = party.flock.rank_of(mac, message)
        if rank is None:
            raise self._refused("flock")
        self._nonces.add(hello.nonce)
        device_id = device_id_of(hello.key)
        if proof.records:
            self._on_brought(device_id, proof.records)
        if hello.key == party.identity.public_key:
            # Only now: before the proof, anybody could have copied our public key into a hello.
            raise self._refused("self" if hello.run == party.run else "clone")
        if reason := self._may_join(device_id, hello.run, rank == 0):
            raise self._refused(reason)
        certificate = hello.certificate if self._is_server else self._server_certificate
        self.peer = PeerInfo(
            device_id=device_id,
            public_key=hello.key,
            run=hello.run,
            certificate_hash=certificate_hash(certificate),
            version=min(party.versions[1], hello.versions[1]),
            compressors=tuple(name for name in party.compressors if name in hello.compressors),
            schemas=tuple(schema for schema in hello.schemas if schema in party.schemas),
            max_frame_bytes=hello.frame,
            data_credits=proof.data,
            control_credits=proof.control,
            features=frozenset(hello.features),
            is_newest=rank == 0,
        )
        return self._proof(Welcome) if self._is_server else b""


def _proven(transcript: bytes, *, is_server: bool) -> bytes:
    return b"flocklet proof 2 " + (b"server" if is_server else b"client") + b" " + transcript
