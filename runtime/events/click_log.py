"""Keep the signed click entries of many persons, bounded, and say what is missing.

`ClickLog` is in memory and sans-I/O: bytes and times come in as arguments. Entries from other peers pass
`receive`, which checks, cheapest first: known and identical, condemned, too old, key known, rate, room,
signature. The own ones and those read back from the store pass `restore`, which trusts them. What leaves
the log by quota, or because its origin was condemned, is reported, so that a model can forget it too.

When there is no room, strangers give way first (of the peer that brought most, the author with most, its oldest), then
friends; people of this device never (`flocklet.events.shares`).

Equivocation: two validly signed entries with the same (origin, seq) and different content condemn the
origin for good. The two entries are the proof; anybody can check it, so it travels with the pulls
(`flocklet.events.click_sync`).

Rates use the receiver's monotonic clock; `ts` inside an entry decides nothing.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from flocklet.errors import WireError
from flocklet.events.click import (
    ClickEntry,
    Signer,
    split_entry,
)
from flocklet.events.click_outcome import Absorbed, Proof
from flocklet.events.shares import Shares, Standing
from flocklet.events.version_vector import MAX_SEQ, PREFIX_SIZE, SeqSet
from flocklet.identity.key import origin_of, verify

__all__ = ["BUCKETS", "DIGEST_SIZE", "ClickLog", "Limits", "bucket_of"]

BUCKETS = 64
DIGEST_SIZE = 8
_LOOKED_AT = 64  # origins of the worst introducer, oldest first, of which the one with least gives way


@dataclass(frozen=True, slots=True)
class Limits:
    """Bound a log: entries per origin, of strangers in all and of everybody; origins of strangers (and apart from them of
    friends) in all and per introducing peer; entries per second.
    """

    quota: int = 2_000
    stranger_entries: int = 120_000
    max_entries: int = 250_000
    max_origins: int = 4_096
    max_introduced: int = 2_048
    burst: float = 2_000.0
    per_second: float = 0.2


@dataclass(slots=True)
class _Origin:
    key: bytes
    via: bytes
    standing: Standing = Standing.STRANGER
    held: SeqSet = field(default_factory=SeqSet)
    seqs: list[int] = field(default_factory=list)
    entries: dict[int, bytes] = field(default_factory=dict)
    tokens: float = 0.0
    filled_s: float = 0.0


def bucket_of(origin: bytes) -> int:
    """Return which of the `BUCKETS` digests covers `origin` (or its prefix)."""
    return origin[0] % BUCKETS


class ClickLog:
    """Hold entries by origin and sequence number within `limits`."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._origins: dict[bytes, _Origin] = {}
        self._buckets: list[set[bytes]] = [set() for _ in range(BUCKETS)]
        self._digests: list[bytes | None] = [None] * BUCKETS
        self._proofs: dict[bytes, Proof] = {}
        self._brought: dict[
            bytes, dict[bytes, None]
        ] = {}  # device -> strangers that it introduced, oldest first
        self._introduced = Shares()
        self._friends: frozenset[bytes] = frozenset()
        self._banished: set[bytes] = set()
        self._shares = {standing: Shares() for standing in Standing}

    def __len__(self) -> int:
        """Return the number of entries held."""
        return sum(shares.total for shares in self._shares.values())

    def __contains__(self, key: tuple[bytes, int]) -> bool:
        origin = self._origins.get(key[0])
        return origin is not None and key[1] in origin.entries

    @property
    def origins(self) -> list[bytes]:
        """Every origin whose key is known, in the order in which it was learnt."""
        return list(self._origins)

    @property
    def proofs(self) -> list[Proof]:
        """The proofs of equivocation held; the store keeps them."""
        return list(self._proofs.values())

    def is_condemned(self, origin: bytes) -> bool:
        """Return whether `origin` was proven to equivocate."""
        return origin in self._proofs

    def key_of(self, origin: bytes) -> bytes | None:
        """Return the 32-byte public key of `origin`, None while it is unknown."""
        known = self._origins.get(origin)
        return known.key if known else None

    def entries(self, origin: bytes) -> Iterator[ClickEntry]:
        """Yield the entries held of `origin` in order of their numbers."""
        known = self._origins.get(origin)
        for seq in list(known.seqs) if known else ():
            yield ClickEntry.decode(known.entries[seq])  # type: ignore[union-attr]

    def raw(self, origin: bytes, beyond: SeqSet, limit: int) -> list[bytes]:
        """Return up to `limit` encoded entries of `origin` that are not in `beyond`, lowest number first."""
        known = self._origins.get(origin)
        if known is None or limit <= 0:
            return []
        found = []
        for seq in known.seqs[bisect_left(known.seqs, beyond.upto + 1) :]:
            if seq not in beyond:
                found.append(known.entries[seq])
                if len(found) == limit:
                    break
        return found

    def learn_key(
        self,
        public_key: bytes,
        *,
        via: bytes = b"",
        standing: Standing = Standing.STRANGER,
        into: Absorbed | None = None,
    ) -> bytes | None:
        """Remember whose entries this key checks; return the origin, None when there is no room for it.

        `via` names the peer that told us: it may introduce at most `max_introduced` strangers. When there is no room for
        another stranger, one of the peer that introduced most gives way, with its entries (`into`), unless that is `via`.
        """
        if type(public_key) is not bytes or len(public_key) != 32:
            raise WireError("a public key is not 32 bytes")
        origin = origin_of(public_key)
        if origin in self._banished:
            return None
        if origin in self._friends:
            standing = max(standing, Standing.FRIEND)
        known = self._origins.get(origin)
        if known is not None:
            if standing > known.standing:
                self._stand(origin, known, standing)
            return origin
        if standing is Standing.STRANGER and not self._make_room(via, into):
            return None
        self._origins[origin] = _Origin(public_key, via, standing, tokens=self.limits.burst)
        self._buckets[bucket_of(origin)].add(origin)
        if standing is Standing.STRANGER:
            self._introduce(origin, via)
        self._touch(origin)
        return origin

    def banish(self, origins: Collection[bytes]) -> Absorbed:
        """Drop these people with all that they had, and take nothing of them again; the own people stay."""
        self._banished |= set(origins)
        into = Absorbed()
        for origin in origins:
            known = self._origins.get(origin)
            if known is not None and known.standing is not Standing.OWN:
                self._stand(origin, known, Standing.STRANGER)
                self._forget(origin, into)
        return into

    def regard(self, friends: Collection[bytes]) -> None:
        """Take note of whom trust reaches now: these are friends, everybody else is a stranger; own people stay own."""
        self._friends = frozenset(friends)
        for origin, known in self._origins.items():
            if known.standing is not Standing.OWN:
                self._stand(origin, known, Standing.FRIEND if origin in friends else Standing.STRANGER)

    def held_by(self, standing: Standing) -> int:
        """Return how many entries of such authors are held."""
        return self._shares[standing].total

    @property
    def strangers(self) -> int:
        """How many origins of strangers are known."""
        return self._introduced.total

    def _make_room(self, via: bytes, into: Absorbed | None) -> bool:
        if via and self._introduced.of_device(via) >= self.limits.max_introduced:
            return False
        if self._introduced.total < self.limits.max_origins:
            return True
        worst = self._introduced.worst_device()
        if (
            worst is None
            or worst == via
            or self._introduced.of_device(via) >= self._introduced.of_device(worst)
        ):
            return False
        brought = self._brought[worst]
        some = [origin for origin, _ in zip(brought, range(_LOOKED_AT), strict=False)]
        victim = min(
            some, key=lambda o: (o in self._proofs, len(self._origins[o].seqs))
        )  # of equals the oldest
        self._forget(victim, into if into is not None else Absorbed())
        return True

    def _introduce(self, origin: bytes, via: bytes) -> None:
        self._brought.setdefault(via, {})[origin] = None
        self._introduced.add(via, origin)

    def _release(self, origin: bytes, via: bytes) -> None:
        self._introduced.add(via, origin, -1)
        del self._brought[via][origin]
        if not self._brought[via]:
            del self._brought[via]

    def _forget(self, origin: bytes, into: Absorbed) -> None:
        """Drop a stranger with all its entries; it may be heard again."""
        known = self._origins[origin]
        while known.seqs:
            into.evicted.append(self._evict(known, origin))
        self._release(origin, known.via)
        self._buckets[bucket_of(origin)].discard(origin)
        self._touch(origin)
        del self._origins[origin]
        self._proofs.pop(origin, None)
        into.forgotten.append(origin)

    def _stand(self, origin: bytes, known: _Origin, standing: Standing) -> None:
        if known.standing is standing:
            return
        if known.seqs:
            self._shares[known.standing].add(known.via, origin, -len(known.seqs))
            self._shares[standing].add(known.via, origin, len(known.seqs))
        if known.standing is Standing.STRANGER:
            self._release(origin, known.via)
        elif standing is Standing.STRANGER:
            self._introduce(origin, known.via)
        known.standing = standing

    def next_seq(self, origin: bytes) -> int:
        """Return the number that the next own entry of `origin` carries."""
        known = self._origins.get(origin)
        return known.held.last + 1 if known else 1

    def append(self, person: Signer, query: str, shown: tuple[int, ...], clicked: int, ts: int) -> ClickEntry:
        """Sign and keep the next entry of a person whose key was learnt; return it for store and model.

        The caller must store it before showing it to anybody: a number used twice condemns its origin.
        """
        seq = self.next_seq(person.origin)
        entry = ClickEntry.signed(person, seq=seq, query=query, shown=shown, clicked=clicked, ts=ts)
        self.restore(entry)
        return entry

    def restore(self, entry: ClickEntry) -> list[ClickEntry]:
        """Take an entry that is trusted (own, or read from the store); return what left by quota.

        Raises WireError when the key of its origin was not learnt before.
        """
        known = self._origins.get(entry.origin)
        if known is None:
            raise WireError("the key of this click entry's origin is unknown", reason="key")
        if entry.origin in self._proofs or entry.seq in known.entries:
            return []
        return self._put(known, entry, entry.encode())

    def receive(self, raw: bytes, now_s: float, into: Absorbed) -> str:
        """Take one encoded entry from a peer; put the outcome in `into` and return its reason ("" =
        accepted).

        Bytes that are no entry raise WireError. `now_s` is the receiver's monotonic time.
        """
        entry = ClickEntry.decode(raw)
        reason = self._judge(entry, raw, now_s, into)
        if reason:
            into.refused[reason] += 1
            into.stuck |= (reason != "duplicate") << bucket_of(entry.origin)
            return reason
        known = self._origins[entry.origin]
        known.tokens -= 1
        into.accepted.append(entry)
        into.evicted += self._put(known, entry, raw)
        return ""

    def condemn(self, proof: Proof, *, via: bytes = b"") -> list[ClickEntry]:
        """Drop and refuse for good everything of a proven equivocator; return what was dropped.

        Raises WireError when the proof does not hold. A stranger's proof beyond the room that `via` has is
        ignored.
        """
        if not proof.holds():
            raise WireError("a proof of equivocation does not hold", reason="proof")
        origin = origin_of(proof.public_key)
        if origin in self._proofs or self.learn_key(proof.public_key, via=via) is None:
            return []
        known = self._origins[origin]
        dropped = [ClickEntry.decode(known.entries[seq]) for seq in known.seqs]
        self._proofs[origin] = proof
        if dropped:
            self._shares[known.standing].add(known.via, origin, -len(dropped))
        known.entries.clear()
        known.seqs.clear()
        known.held = SeqSet(MAX_SEQ)
        self._touch(origin)
        return dropped

    def proof_of(self, origin: bytes) -> Proof | None:
        """Return why `origin` is condemned, None when it is not."""
        return self._proofs.get(origin)

    def bucket(self, number: int) -> list[bytes]:
        """Return the origins of one bucket, sorted."""
        return sorted(self._buckets[number])

    def vector(self, number: int) -> bytes:
        """Return what is held of every origin of one bucket (`flocklet.events.version_vector`)."""
        return b"".join(
            self._origins[origin].held.encode(origin)
            for origin in self.bucket(number)
            if self._origins[origin].held.last
        )

    def digests(self) -> bytes:
        """Return `BUCKETS` x 8 bytes; two logs that hold the same have the same."""
        for number, digest in enumerate(self._digests):
            if digest is None:
                state = hashlib.blake2b(self.vector(number), digest_size=DIGEST_SIZE)
                self._digests[number] = state.digest()
        return b"".join(digest for digest in self._digests if digest is not None)

    def _judge(self, entry: ClickEntry, raw: bytes, now_s: float, into: Absorbed) -> str:
        known = self._origins.get(entry.origin)
        if known is None:
            return "key"
        if entry.origin in self._proofs:
            return "condemned"
        held = known.entries.get(entry.seq)
        if held is not None:
            return self._compare(known, entry, held, raw, into)
        is_full = known.standing is not Standing.OWN and len(known.seqs) >= self.limits.quota
        if is_full and entry.seq < known.seqs[0]:
            known.held.give_up(known.seqs[0] - 1)
            self._touch(entry.origin)
        if entry.seq in known.held:
            return "old"
        elapsed_s = max(0.0, now_s - known.filled_s)
        known.tokens = min(self.limits.burst, known.tokens + elapsed_s * self.limits.per_second)
        known.filled_s = max(known.filled_s, now_s)
        if known.tokens < 1:
            return "rate"
        if not known.held.has_room(entry.seq):
            return "gaps"
        if not verify(known.key, entry.signature, entry.message()):
            return "signature"
        return ""

    def _compare(self, known: _Origin, entry: ClickEntry, held: bytes, raw: bytes, into: Absorbed) -> str:
        if split_entry(held)[0] == entry.message():
            return "duplicate"
        if not verify(known.key, entry.signature, entry.message()):
            return "signature"
        proof = Proof(known.key, held, raw)
        into.evicted += self.condemn(proof)
        into.proofs.append(proof)
        return "equivocation"

    def _put(self, known: _Origin, entry: ClickEntry, raw: bytes) -> list[ClickEntry]:
        known.entries[entry.seq] = raw
        insort(known.seqs, entry.seq)
        known.held.add(entry.seq)
        self._shares[known.standing].add(known.via, entry.origin)
        self._touch(entry.origin)
        evicted = []
        if known.standing is not Standing.OWN and len(known.seqs) > self.limits.quota:
            evicted.append(self._evict(known, entry.origin))
        victim = self._victim()
        if victim is not None:
            evicted.append(self._evict(self._origins[victim], victim))
        return evicted

    def _victim(self) -> bytes | None:
        """Return who gives way for another entry: strangers first, then friends, nobody of this device."""
        strangers, friends = self._shares[Standing.STRANGER], self._shares[Standing.FRIEND]
        is_full = len(self) > self.limits.max_entries
        if strangers.total > self.limits.stranger_entries or (is_full and strangers.total):
            return strangers.worst()
        return friends.worst() if is_full else None

    def _evict(self, known: _Origin, origin: bytes) -> ClickEntry:
        seq = known.seqs.pop(0)
        known.held.give_up(seq)
        self._shares[known.standing].add(known.via, origin, -1)
        self._touch(origin)
        return ClickEntry.decode(known.entries.pop(seq))

    def _touch(self, origin: bytes) -> None:
        self._digests[bucket_of(origin[:PREFIX_SIZE])] = None
