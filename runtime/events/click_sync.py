"""Ask another peer for the click entries that we lack, in two or more short messages (pull gossip).

1. `clicks.digest?` carries one digest per bucket of origins; the answer names the buckets that differ. 2. `clicks?`
carries the version vectors of these buckets; the answer brings entries. 3. again with the buckets that the answer says
are not exhausted, until none is left. So a pull costs 528 bytes plus 10 to 20 per origin in a bucket that changed,
however many origins there are; entries that a peer has from elsewhere are not sent again, unlike with a cursor per peer.

`Pull` is the asking side as an object; `answer_digest` and `answer_steps` are the whole answering side and keep no state
between messages.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

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
from flocklet.events.click_log import BUCKETS, DIGEST_SIZE, ClickLog, bucket_of
from flocklet.events.click_outcome import Absorbed, Proof
from flocklet.events.feed import Steps, finish
from flocklet.events.version_vector import MAX_SEQ, PREFIX_SIZE, SeqSet, read_vector
from flocklet.identity.key import origin_of
from flocklet.wire.schema import Within

__all__ = [
    "MAX_BATCH",
    "ClickAnswer",
    "ClickDigest",
    "ClickQuestion",
    "DifferingBuckets",
    "Pull",
    "absorb_steps",
    "answer",
    "answer_digest",
    "answer_steps",
    "first_question",
    "question",
]

MAX_BATCH = 512
MAX_PROOFS = 16
MAX_MESSAGE_SIZE = 60_000  # an authenticated control frame holds 64 KiB
KEY_SIZE = 32
ALL_BUCKETS = (1 << BUCKETS) - 1
_LEVEL = 6
_MAX_ROUNDS = 1_024
_SIGNED_SIZE = MAX_ENTRY_SIZE - SIGNATURE_SIZE - 2
_PROOFS_SIZE = MAX_PROOFS * (KEY_SIZE + 2 * MAX_ENTRY_SIZE + 16)
_STEP = 16  # entries that are checked, learnt and stored in one slice, about 4 ms
_ANSWER_STEP = 32  # entries, or origins without any, that are looked up in one slice
_NOTHING = SeqSet()


@dataclass(frozen=True, slots=True)
class ClickDigest:
    """Ask which buckets differ: `dig` is one digest per bucket (`ClickLog.digests`)."""

    kind: ClassVar[str] = "clicks.digest?"
    dig: Annotated[bytes, Within(BUCKETS * DIGEST_SIZE, BUCKETS * DIGEST_SIZE)]


@dataclass(frozen=True, slots=True)
class DifferingBuckets:
    """Answer with the mask of the buckets whose digests differ."""

    kind: ClassVar[str] = "clicks.digest!"
    ask: Annotated[int, Within(0, ALL_BUCKETS)]


@dataclass(frozen=True, slots=True)
class ClickQuestion:
    """Ask for the entries of the buckets in the mask `ask` beyond the version vectors `have`, at most `max`."""

    kind: ClassVar[str] = "clicks?"
    ask: Annotated[int, Within(0, ALL_BUCKETS)]
    have: Annotated[bytes, Within(0, MAX_MESSAGE_SIZE)]
    max: Annotated[int, Within(0, MAX_SEQ)]


@dataclass(frozen=True, slots=True)
class ClickAnswer:
    """Answer with entries: `ask` masks the buckets that have more, `k` the keys of origins that the asker lacks, `e`
    zlib of the signed parts, `s` their signatures, `p` proofs of equivocation.
    """

    kind: ClassVar[str] = "clicks!"
    ask: Annotated[int, Within(0, ALL_BUCKETS)]
    k: Annotated[bytes, Within(0, MAX_BATCH * KEY_SIZE, step=KEY_SIZE)] = b""
    e: Annotated[bytes, Within(0, MAX_BATCH * MAX_ENTRY_SIZE)] = b""
    s: Annotated[bytes, Within(0, MAX_BATCH * SIGNATURE_SIZE, step=SIGNATURE_SIZE)] = b""
    p: Annotated[bytes, Within(0, _PROOFS_SIZE)] = b""


def first_question(log: ClickLog) -> ClickDigest:
    """Return the first message of a pull."""
    return ClickDigest(log.digests())


def question(log: ClickLog, buckets: int, *, limit: int = MAX_BATCH) -> ClickQuestion:
    """Return the message that asks for the entries of some buckets, of as many as fit."""
    have, ask = b"", 0
    for number in range(BUCKETS):
        if buckets >> number & 1:
            vector = log.vector(number)
            if ask and len(have) + len(vector) > MAX_MESSAGE_SIZE:
                break
            have += vector
            ask |= 1 << number
    return ClickQuestion(ask, have, limit)


def answer_digest(log: ClickLog, request: ClickDigest) -> DifferingBuckets:
    """Answer the first message of a pull."""
    return DifferingBuckets(_differing(request.dig, log.digests()))


def answer_steps(log: ClickLog, request: ClickQuestion, *, limit: int = MAX_BATCH) -> Steps[ClickAnswer]:
    """Answer a question in slices; raise WireError for a malformed vector.

    The work is bounded by the buckets asked for and `limit` entries.
    """
    have = read_vector(request.have)
    room = min(limit, MAX_BATCH, request.max)
    keys, proofs, signed, signatures = bytearray(), bytearray(), bytearray(), bytearray()
    packer, packed = zlib.compressobj(_LEVEL), bytearray()
    size, left, since = 0, 0, 0
    for number in range(BUCKETS):
        if not request.ask >> number & 1:
            continue
        for origin in log.bucket(number):
            since += 1
            if since >= _ANSWER_STEP:
                since = 0
                packed += packer.compress(signed)
                signed.clear()
                yield
            held = have.get(origin[:PREFIX_SIZE], _NOTHING)
            proof = log.proof_of(origin)
            if proof is not None:
                if held.upto < MAX_SEQ and len(proofs) < MAX_PROOFS * 2 * MAX_ENTRY_SIZE:
                    proofs += _put_proof(proof)
                continue
            found = log.raw(origin, held, room + 1)
            since += len(found)
            for count, raw in enumerate(found):
                if not room or size + len(keys) + len(proofs) > MAX_MESSAGE_SIZE - 256:
                    left |= 1 << number
                    break
                if not count and not held.last:
                    keys += log.key_of(origin) or b""
                message, signature = split_entry(raw)
                signed += message
                signatures += signature
                size += len(message) + len(signature)
                room -= 1
    packed += packer.compress(signed)
    yield
    packed += packer.flush()
    return ClickAnswer(left, bytes(keys), bytes(packed), bytes(signatures), bytes(proofs))


def answer(log: ClickLog, request: ClickDigest | ClickQuestion) -> DifferingBuckets | ClickAnswer:
    """Answer either message of a pull at once."""
    if isinstance(request, ClickDigest):
        return answer_digest(log, request)
    return finish(answer_steps(log, request))


def absorb_steps(
    log: ClickLog,
    answer: ClickAnswer,
    now_s: float,
    into: Absorbed,
    *,
    via: bytes = b"peer",
    step: int = _STEP,
) -> Steps[None]:
    """Take an answer in, yielding after every `step` entries (a signature costs about 0.1 ms to check).

    Raises WireError on a malformed answer and stops at the first wrong signature: no honest peer relays one.
    """
    for start in range(0, len(answer.k), KEY_SIZE):
        key = answer.k[start : start + KEY_SIZE]
        origin = log.learn_key(key, via=via, into=into)
        if origin is None:
            into.refused["origins"] += 1
            into.stuck |= 1 << bucket_of(origin_of(key))
        else:
            into.keys.append(key)
    for proof in _read_proofs(answer.p):
        into.evicted += log.condemn(proof, via=via)
        into.proofs.append(proof)
        yield
    for number, raw in enumerate(_read_entries(answer), start=1):
        if log.receive(raw, now_s, into) == "signature":
            raise WireError("a pulled click entry has a wrong signature", reason="signature")
        if number % step == 0:
            yield


class Pull:
    """Ask one peer until it has nothing more: `request = pull.request`; then `take_steps(answer)` until it is None.

    `via` is the device id of the peer asked. What came in is in `absorbed`. A bucket whose entries we
    refuse is not asked for again in this pull, so that a hostile peer cannot keep us busy.
    """

    def __init__(self, log: ClickLog, *, via: bytes = b"peer", limit: int = MAX_BATCH) -> None:
        self.absorbed = Absorbed()
        self.request: ClickDigest | ClickQuestion | None = first_question(log)
        self._log = log
        self._via = via
        self._limit = limit
        self._pending = ALL_BUCKETS
        self._rounds = 0
        self._told = (0, 0, 0, 0, 0)

    def take_steps(
        self, answer: DifferingBuckets | ClickAnswer, now_s: float, *, step: int = _STEP
    ) -> Steps[None]:
        """Take the answer to `request` in, yielding after every `step` entries; then `request` is the next one.

        Raises WireError for an answer that does not belong to the request, or that is malformed.
        """
        if isinstance(self.request, ClickDigest) is not isinstance(answer, DifferingBuckets):
            raise WireError("a pull was answered by something else", reason="type")
        if isinstance(answer, DifferingBuckets):
            self._pending = answer.ask
        else:
            asked, before = self._asked(), len(self.absorbed.accepted)
            self.absorbed.stuck = 0
            yield from absorb_steps(self._log, answer, now_s, self.absorbed, via=self._via, step=step)
            ask, alive = answer.ask, 0
            for entry in self.absorbed.accepted[before:]:
                alive |= 1 << bucket_of(entry.origin)
            if not alive and not self.absorbed.stuck:
                ask = 0
            self._pending &= ~asked | (ask & ~(self.absorbed.stuck & ~alive))
        self._rounds += 1
        done = not self._pending or self._rounds >= _MAX_ROUNDS
        self.request = None if done else question(self._log, self._pending, limit=self._limit)

    def take(self, answer: DifferingBuckets | ClickAnswer, now_s: float) -> None:
        """Do what `take_steps` does at once."""
        finish(self.take_steps(answer, now_s))

    def news(self) -> Absorbed:
        """Return what came in since the last call: it goes to the models and the store."""
        held, marks = self.absorbed, self._told
        self._told = (
            len(held.accepted),
            len(held.evicted),
            len(held.proofs),
            len(held.keys),
            len(held.forgotten),
        )
        return Absorbed(
            held.accepted[marks[0] :],
            held.evicted[marks[1] :],
            proofs=held.proofs[marks[2] :],
            keys=held.keys[marks[3] :],
            forgotten=held.forgotten[marks[4] :],
        )

    def _asked(self) -> int:
        return self.request.ask if isinstance(self.request, ClickQuestion) else 0


def _differing(theirs: bytes, ours: bytes) -> int:
    mask = 0
    for number in range(BUCKETS):
        at = slice(number * DIGEST_SIZE, (number + 1) * DIGEST_SIZE)
        mask |= (theirs[at] != ours[at]) << number
    return mask


def _put_proof(proof: Proof) -> bytes:
    return bytes(msgpack.packb([proof.public_key, proof.first, proof.second]))


def _read_proofs(data: bytes) -> Iterator[Proof]:
    for raw in _split(data, MAX_PROOFS, MAX_ENTRY_SIZE):
        try:
            parts = msgpack.unpackb(raw, use_list=False)
        except (
            ValueError,
            msgpack.UnpackException,
        ) as error:  # text that is no UTF-8, a timestamp of no size
            raise WireError("a proof of equivocation is not made of bytes") from error
        if type(parts) is not tuple or len(parts) != 3 or any(type(part) is not bytes for part in parts):
            raise WireError("a proof of equivocation does not have three parts")
        yield Proof(*parts)


def _read_entries(answer: ClickAnswer) -> Iterator[bytes]:
    packed, signatures = answer.e, answer.s
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
