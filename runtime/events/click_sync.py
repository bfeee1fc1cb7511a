"""Ask another peer for the click entries that we lack, in two or more short messages (pull gossip).

Bodies are flat maps for `flocklet.wire.frame`; nothing is accepted that was not asked for.

1. `{"t": "clk?", "dig": 64 x 8 B}`: one digest per bucket of origins. The answer names the buckets that
differ. 2. `{"t": "clk?", "ask": bucket mask, "have": vectors of these buckets, "max": 512}`: the answer
brings entries. 3. again with the buckets that the answer says are not exhausted, until none is left.

Answer: `{"t": "clk!", "ask": mask, "k": keys of origins we do not know, "e": zlib of the signed parts, "s":
signatures, "p": proofs of equivocation}`. So the request costs 528 bytes plus 10 to 20 per origin in a
bucket that changed, however many origins there are; entries that a peer has from elsewhere are not sent
again, unlike with a cursor per peer.

`Pull` is the asking side as an object; `pull_answer` is the whole answering side and keeps no state between
messages.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import msgpack

from flocklet.errors import WireError
from flocklet.events.click import (
    MAX_ENTRY_SIZE,
    MAX_QUERY_SIZE,
    MAX_SHOWN,
    SIGNATURE_SIZE,
    join_entry,
    split_entry,
)
from flocklet.events.click_log import BUCKETS, DIGEST_SIZE, Absorbed, ClickLog, Proof, bucket_of
from flocklet.events.version_vector import MAX_SEQ, PREFIX_SIZE, SeqSet, read_vector

__all__ = ["MAX_BATCH", "Pull", "absorb", "absorb_steps", "message_size", "pull_answer", "pull_request"]

MAX_BATCH = 512
MAX_PROOFS = 16
MAX_MESSAGE_SIZE = 60_000  # an authenticated control frame holds 64 KiB
KEY_SIZE = 32
ALL_BUCKETS = (1 << BUCKETS) - 1
_LEVEL = 6
_MAX_ROUNDS = 1_024
_SIGNED_SIZE = MAX_ENTRY_SIZE - SIGNATURE_SIZE - 2

Message = dict[str, Any]


def pull_request(log: ClickLog, buckets: int | None = None, *, limit: int = MAX_BATCH) -> Message:
    """Return the first message of a pull, or, with a mask of `buckets`, the one that asks for their
    entries."""
    if buckets is None:
        return {"t": "clk?", "dig": log.digests()}
    have, ask = b"", 0
    for number in range(BUCKETS):
        if buckets >> number & 1:
            vector = log.vector(number)
            if ask and len(have) + len(vector) > MAX_MESSAGE_SIZE:
                break
            have += vector
            ask |= 1 << number
    return {"t": "clk?", "ask": ask, "have": have, "max": limit}


def pull_answer(log: ClickLog, request: Message, *, limit: int = MAX_BATCH) -> Message:
    """Return the answer to either kind of request; raises WireError on a malformed one.

    The work is bounded by the buckets asked for and `limit` entries.
    """
    if request.get("t") != "clk?":
        raise WireError("a pull request has the wrong type")
    if "dig" in request:
        digests = _bytes(request, "dig", BUCKETS * DIGEST_SIZE)
        if len(digests) != BUCKETS * DIGEST_SIZE:
            raise WireError("a pull request has digests of the wrong length")
        return _answer(ask=_differing(digests, log.digests()))
    ask = _number(request, "ask", ALL_BUCKETS)
    limit = min(limit, MAX_BATCH, _number(request, "max", MAX_SEQ))
    return _collect(log, ask, read_vector(_bytes(request, "have", 2 * MAX_MESSAGE_SIZE)), limit)


def absorb_steps(
    log: ClickLog, answer: Message, now_s: float, into: Absorbed, *, via: bytes = b"peer", step: int = 64
) -> Iterator[None]:
    """Take an answer in, yielding after every `step` entries (a signature costs about 0.1 ms to check).

    Raises WireError on a malformed answer and stops at the first wrong signature: no honest peer relays one.
    """
    keys = _bytes(answer, "k", MAX_BATCH * KEY_SIZE)
    if answer.get("t") != "clk!" or len(keys) % KEY_SIZE:
        raise WireError("a pull answer has the wrong type or a torn key")
    for start in range(0, len(keys), KEY_SIZE):
        key = keys[start : start + KEY_SIZE]
        origin = log.learn_key(key, via=via)
        if origin is None:
            into.refused["origins"] += 1
        else:
            into.keys.append(key)
    for proof in _read_proofs(_bytes(answer, "p", MAX_PROOFS * (KEY_SIZE + 2 * MAX_ENTRY_SIZE + 16))):
        dropped = log.condemn(proof, via=via)
        into.evicted += dropped
        into.proofs.append(proof)
    for number, raw in enumerate(_read_entries(answer), start=1):
        if log.receive(raw, now_s, into) == "signature":
            raise WireError("a pulled click entry has a wrong signature", reason="signature")
        if number % step == 0:
            yield


def absorb(log: ClickLog, answer: Message, now_s: float, *, via: bytes = b"peer") -> Absorbed:
    """Take an answer in at once; see `absorb_steps`."""
    into = Absorbed()
    for _ in absorb_steps(log, answer, now_s, into, via=via):
        pass
    return into


class Pull:
    """Ask one peer until it has nothing more: `request = pull.request`; then `pull.take(answer)` until it
    is None.

    `via` is the device id of the peer asked. What came in is in `absorbed`. A bucket whose entries we
    refuse is not asked for again in this pull, so that a hostile peer cannot keep us busy.
    """

    def __init__(self, log: ClickLog, *, via: bytes = b"peer", limit: int = MAX_BATCH) -> None:
        self.absorbed = Absorbed()
        self.request: Message | None = pull_request(log)
        self._log = log
        self._via = via
        self._limit = limit
        self._pending = ALL_BUCKETS
        self._rounds = 0

    def take(self, answer: Message, now_s: float) -> Message | None:
        """Take the answer to `request` in; return the next request, None at the end."""
        for _ in self.take_steps(answer, now_s):
            pass
        return self.request

    def take_steps(self, answer: Message, now_s: float, *, step: int = 64) -> Iterator[None]:
        """Do what `take` does, yielding after every `step` entries."""
        first = self._rounds == 0
        got = Absorbed()
        try:
            if not first:
                yield from absorb_steps(self._log, answer, now_s, got, via=self._via, step=step)
        finally:
            self._merge(got)
        ask = _number(answer, "ask", ALL_BUCKETS)
        if first:
            self._pending = ask
        else:
            asked = self._asked()
            alive = 0
            for entry in got.accepted:
                alive |= 1 << bucket_of(entry.origin)
            if not got.accepted and not got.stuck:
                ask = 0
            self._pending &= ~asked | (ask & ~(got.stuck & ~alive))
        self._rounds += 1
        done = not self._pending or self._rounds >= _MAX_ROUNDS
        self.request = None if done else pull_request(self._log, self._pending, limit=self._limit)

    def _asked(self) -> int:
        return int(self.request["ask"]) if self.request else 0

    def _merge(self, got: Absorbed) -> None:
        self.absorbed.accepted += got.accepted
        self.absorbed.evicted += got.evicted
        self.absorbed.refused += got.refused
        self.absorbed.proofs += got.proofs
        self.absorbed.keys += got.keys


def message_size(message: Message) -> int:
    """Return the bytes of a message's msgpack body."""
    return len(msgpack.packb(message))


def _answer(
    ask: int, keys: bytes = b"", entries: bytes = b"", signatures: bytes = b"", proofs: bytes = b""
) -> Message:
    return {"t": "clk!", "ask": ask, "k": keys, "e": entries, "s": signatures, "p": proofs}


def _differing(theirs: bytes, ours: bytes) -> int:
    mask = 0
    for number in range(BUCKETS):
        at = slice(number * DIGEST_SIZE, (number + 1) * DIGEST_SIZE)
        mask |= (theirs[at] != ours[at]) << number
    return mask


def _collect(log: ClickLog, ask: int, have: dict[bytes, SeqSet], limit: int) -> Message:
    keys, proofs, signed, signatures = bytearray(), bytearray(), bytearray(), bytearray()
    nothing = SeqSet()
    left, room = 0, limit
    for number in range(BUCKETS):
        if not ask >> number & 1:
            continue
        for origin in log.bucket(number):
            held = have.get(origin[:PREFIX_SIZE], nothing)
            proof = log.proof_of(origin)
            if proof is not None:
                if held.upto < MAX_SEQ and len(proofs) < MAX_PROOFS * 2 * MAX_ENTRY_SIZE:
                    proofs += _put_proof(proof)
                continue
            for count, raw in enumerate(log.raw(origin, held, room + 1)):
                if (
                    not room
                    or len(signed) + len(signatures) + len(keys) + len(proofs) > MAX_MESSAGE_SIZE - 256
                ):
                    left |= 1 << number
                    break
                if not count and not held.last:
                    keys += log.key_of(origin) or b""
                message, signature = split_entry(raw)
                signed += message
                signatures += signature
                room -= 1
    return _answer(left, bytes(keys), zlib.compress(bytes(signed), _LEVEL), bytes(signatures), bytes(proofs))


def _put_proof(proof: Proof) -> bytes:
    return bytes(msgpack.packb([proof.public_key, proof.first, proof.second]))


def _read_proofs(data: bytes) -> Iterator[Proof]:
    for raw in _split(data, MAX_PROOFS, MAX_ENTRY_SIZE):
        parts = msgpack.unpackb(raw, use_list=False)
        if type(parts) is not tuple or len(parts) != 3 or any(type(part) is not bytes for part in parts):
            raise WireError("a proof of equivocation does not have three parts")
        yield Proof(*parts)


def _read_entries(answer: Message) -> Iterator[bytes]:
    packed = _bytes(answer, "e", MAX_BATCH * MAX_ENTRY_SIZE)
    signatures = _bytes(answer, "s", MAX_BATCH * SIGNATURE_SIZE)
    if not packed:
        return
    unpacker = zlib.decompressobj()
    try:
        signed = unpacker.decompress(packed, MAX_BATCH * _SIGNED_SIZE)
    except zlib.error as error:
        raise WireError("the entries of a pull answer are not zlib data") from error
    if not unpacker.eof or unpacker.unused_data:
        raise WireError("the entries of a pull answer are longer than allowed", reason="too-long")
    messages = list(_split(signed, MAX_BATCH, SIGNATURE_SIZE))
    if len(messages) * SIGNATURE_SIZE != len(signatures):
        raise WireError("a pull answer has another number of signatures than of entries")
    for number, message in enumerate(messages):
        if message[0] != 0x97:  # a msgpack array of seven
            raise WireError("a pulled click entry does not have eight fields")
        yield join_entry(message, signatures[number * SIGNATURE_SIZE : (number + 1) * SIGNATURE_SIZE])


def _split(data: bytes, most: int, longest: int) -> Iterator[bytes]:
    unpacker = msgpack.Unpacker(
        max_buffer_size=max(1, len(data)),
        max_str_len=MAX_QUERY_SIZE,
        max_bin_len=longest,
        max_array_len=MAX_SHOWN,
        max_map_len=0,
        max_ext_len=0,
    )
    unpacker.feed(data)
    start = 0
    for _ in range(most):
        if start == len(data):
            return
        try:
            unpacker.skip()
        except (ValueError, msgpack.OutOfData) as error:
            raise WireError("a pull answer holds broken msgpack") from error
        yield data[start : unpacker.tell()]
        start = unpacker.tell()
    if start != len(data):
        raise WireError(f"a pull answer holds more than {most} records", reason="too-long")


def _bytes(message: Message, key: str, longest: int) -> bytes:
    value = message.get(key, b"")
    if type(value) is not bytes or len(value) > longest:
        raise WireError(f"field {key!r} of a pull is not bytes or longer than {longest}")
    return value


def _number(message: Message, key: str, most: int) -> int:
    value = message.get(key)
    if type(value) is not int or not 0 <= value <= most:
        raise WireError(f"field {key!r} of a pull is not a number up to {most}")
    return value
