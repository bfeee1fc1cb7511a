"""Keep one table of peers from many sources; decide whom to dial, when and where. No I/O: time comes as
argument.

Rules (wire.md sections 7 and 9; each has a test):
- A peer is one record, whoever saw it; a static peer without an id is merged when the handshake reveals the
  id.
- What a source says is a hint. Only `authenticated` proves; after it no announcement changes name, flock or
  id.
- No announcement evicts a proven peer, an owner's peer or a proven address; strangers evict each other.
- Liveness comes from `heard_from` alone.
- New strangers and dials to strangers are rate-limited; failed addresses back off exponentially with jitter.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from flocklet.discovery.address import Address, is_dialable, is_loopback
from flocklet.discovery.bounds import Outcome, TableSettings
from flocklet.discovery.bucket import TokenBucket
from flocklet.discovery.dialling import DialCandidate, DialPlan
from flocklet.discovery.record import AddressState, Liveness, PeerRecord
from flocklet.discovery.source import Sighting, SourceKind
from flocklet.errors import IdentityError, PeerRefused

__all__ = ["PeerTable"]

_TRUSTED = frozenset({SourceKind.STATIC, SourceKind.REMEMBERED})


class PeerTable:
    """All peers we know of. Not thread-safe; every `now_s` is one monotonic clock."""

    def __init__(
        self,
        own_id: bytes,
        flock_tags: Sequence[str],
        rng: np.random.Generator,
        settings: TableSettings | None = None,
    ) -> None:
        self._own_id = own_id
        self._flock_tags = tuple(flock_tags)
        self._rng = rng
        self._settings = settings or TableSettings()
        self._records: dict[str, PeerRecord] = {}
        self._aliases: dict[str, str] = {}
        self._own_addresses: set[Address] = set()
        self._news = TokenBucket(self._settings.new_per_s, self._settings.new_burst)
        self._plan = DialPlan(self._settings, rng)
        self.counts: Counter[str] = Counter()
        self.clone_addresses: tuple[Address, ...] = ()

    def use_tags(self, flock_tags: Sequence[str]) -> None:
        """Take the flock's secrets as changed: peers that announce one of these tags are ours."""
        self._flock_tags = tuple(flock_tags)
        for record in self._records.values():
            record.is_foreign = record.is_foreign and record.flock_tag not in self._flock_tags

    # --- what is known ---

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[PeerRecord]:
        return iter(tuple(self._records.values()))

    def peers(self) -> list[PeerRecord]:
        """Return the peers that may be of our flock, linked ones first, then by name."""
        mine = [record for record in self._records.values() if not record.is_foreign]
        return sorted(mine, key=lambda record: (not record.is_linked, record.display()))

    def foreign(self) -> list[PeerRecord]:
        """Return the peers that were seen but belong to another flock."""
        return sorted((r for r in self._records.values() if r.is_foreign), key=PeerRecord.display)

    def get(self, key: str | bytes) -> PeerRecord | None:
        """Return the record of a device id (32 B), or of a key or label that was ever valid; None if
        forgotten.
        """
        text = key.hex() if isinstance(key, bytes) else key
        return self._records.get(text) or self._records.get(self._aliases.get(text, ""))

    def known_ids(self) -> list[bytes]:
        """Return every device id that was proved, remembered or claimed by a member."""
        return [id for record in self._records.values() if (id := record.device_id or record.claimed_id)]

    def liveness(self, record: PeerRecord, now_s: float) -> Liveness:
        """Return what our own heartbeats say about `record`."""
        if record.heard_s is None:
            return Liveness.NEVER
        silence_s = now_s - record.heard_s
        if silence_s <= self._settings.silent_after_s:
            return Liveness.ALIVE
        return Liveness.SILENT if silence_s <= self._settings.lost_after_s else Liveness.LOST

    # --- what sources say ---

    def offer(self, sighting: Sighting, now_s: float) -> Outcome:
        """Take one sighting in; return what became of it (a word of `Outcome`), which is also counted."""
        outcome = self._offer(sighting, now_s)
        self.counts[outcome] += 1
        return outcome

    def _offer(self, sighting: Sighting, now_s: float) -> Outcome:
        claimed = sighting.claimed_id
        if claimed is not None and len(claimed) != 32:
            return Outcome.INVALID
        if claimed == self._own_id:
            if sighting.source is SourceKind.MDNS and not sighting.gone:
                self.clone_addresses = sighting.addresses[: self._settings.max_addresses]
                return Outcome.CLONE
            return Outcome.OWN
        label = sighting.run if sighting.source is SourceKind.MDNS else sighting.label
        if claimed is None and (sighting.source not in (SourceKind.STATIC, SourceKind.MDNS) or not label):
            return Outcome.INVALID
        record = self.get(claimed if claimed is not None else label)
        if sighting.gone:
            return self._withdraw(record, sighting.source)
        is_trusted = sighting.source in _TRUSTED
        allow_loopback = is_trusted or self._settings.allow_loopback
        addresses = [a for a in sighting.addresses if is_dialable(a, allow_loopback=allow_loopback)]
        if not addresses and not is_trusted:
            return Outcome.INVALID
        if record is not None:
            return Outcome.UPDATED if self._update(record, sighting, addresses, now_s) else Outcome.UNCHANGED
        if not is_trusted and not self._news.take(now_s):
            return Outcome.LIMITED
        is_foreign = not is_trusted and sighting.flock_tag not in {None, *self._flock_tags}
        if not self._make_room(is_foreign=is_foreign):
            return Outcome.FULL
        record = self._create(label if claimed is None else claimed.hex(), now_s)
        record.is_foreign = is_foreign
        record.claimed_id = claimed
        if claimed is None:
            record.label = "" if sighting.source is SourceKind.MDNS else label
        elif sighting.source is SourceKind.REMEMBERED:
            record.device_id = claimed
        elif claimed < self._own_id:
            # The peer with the smaller id keeps its link (PROTOCOL.md 3.2), so it may as well dial first.
            record.not_before_s = now_s + self._settings.patience_s
        self._update(record, sighting, addresses, now_s)
        return Outcome.NEW

    def _create(self, key: str, now_s: float) -> PeerRecord:
        record = PeerRecord(key=key, first_seen_s=now_s, last_seen_s=now_s)
        self._records[key] = record
        return record

    def _update(self, record: PeerRecord, sighting: Sighting, addresses: list[Address], now_s: float) -> bool:
        """Merge a sighting into a record; return whether anything but the time of it is news."""
        is_news = False
        record.last_seen_s = now_s
        if sighting.name and not record.name:
            record.name = sighting.name
        if not record.is_authenticated:
            record.flock_tag = sighting.flock_tag or record.flock_tag
            record.version = sighting.version if sighting.version is not None else record.version
            if record.is_foreign and sighting.flock_tag in self._flock_tags:
                # Never the other way: a stranger could talk us out of dialling a peer of ours.
                record.is_foreign, is_news = False, True
        for address in addresses:
            is_news |= self._see(record, address, sighting.source, now_s)
        if sighting.source is SourceKind.STATIC and not record.is_linked and (sighting.problem or is_news):
            is_news |= record.problem != sighting.problem
            record.problem = sighting.problem
        if sighting.run and sighting.run != record.run:
            is_restart = bool(record.run)
            record.run = sighting.run
            is_news = True
            if is_restart:
                self._nudge(record, now_s)
        return is_news

    def _see(self, record: PeerRecord, address: Address, source: SourceKind, now_s: float) -> bool:
        if address in self._own_addresses:
            return False
        state = record.addresses.get(address)
        if state is None:
            if len(record.addresses) >= self._settings.max_addresses and not self._drop_worst_address(record):
                self.counts["address refused"] += 1
                return False
            state = record.addresses[address] = AddressState(address, first_seen_s=now_s)
        is_news = source not in state.sources
        state.sources.add(source)
        state.last_seen_s = now_s
        return is_news

    def _drop_worst_address(self, record: PeerRecord) -> bool:
        """Make room among the addresses that only strangers vouch for: most failures first, then the
        newest.
        """
        loose = [s for s in record.addresses.values() if not s.is_proven and not s.sources & _TRUSTED]
        if not loose:
            return False
        worst = max(loose, key=lambda state: (state.is_barred, state.failures, state.first_seen_s))
        del record.addresses[worst.address]
        return True

    def _nudge(self, record: PeerRecord, now_s: float) -> None:
        """Try a restarted peer at once, but no oftener than a stranger could make us dial for nothing."""
        if record.nudged_s is not None and now_s - record.nudged_s < self._settings.nudge_every_s:
            return
        record.nudged_s = now_s
        for state in record.addresses.values():
            if not state.is_barred:
                state.retry_at_s = min(state.retry_at_s, now_s)

    def _withdraw(self, record: PeerRecord | None, source: SourceKind) -> Outcome:
        if record is None:
            return Outcome.UNCHANGED
        for state in tuple(record.addresses.values()):
            state.sources.discard(source)
            if not state.sources and not state.is_proven:
                del record.addresses[state.address]
        if not record.addresses and not record.is_protected:
            self._forget(record)
        return Outcome.GONE

    def _make_room(self, *, is_foreign: bool) -> bool:
        """Keep the table bounded: strangers evict strangers, most failures first, then the longest unseen."""
        cap = self._settings.max_foreign if is_foreign else self._settings.max_peers
        among = [record for record in self._records.values() if record.is_foreign is is_foreign]
        if len(among) < cap:
            return True
        loose = [record for record in among if not record.is_protected]
        if not loose:
            return False
        self._forget(max(loose, key=lambda record: (record.failures, -record.last_seen_s)))
        self.counts["evicted"] += 1
        return True

    def _forget(self, record: PeerRecord) -> None:
        self._records.pop(record.key, None)

    # --- whom to dial ---

    def dial_candidates(self, now_s: float, limit: int = 8) -> list[DialCandidate]:
        """Return whom to dial now, best first, and lease each for `dial_lease_s` (see `DialPlan`)."""
        return self._plan.candidates(self._records.values(), now_s, limit)

    def next_due_s(self) -> float | None:
        """Return when `dial_candidates` may next have something, possibly in the past; None if nothing
        waits.
        """
        return self._plan.next_due_s(self._records.values())

    def failed(
        self, key: str, address: Address, reason: str, now_s: float, *, is_barred: bool = False
    ) -> None:
        """Note that `address` failed; back off, or with `is_barred` (another key answered) leave it alone
        for long.
        """
        record = self.get(key)
        state = record.addresses.get(address) if record is not None else None
        if record is None or state is None:
            return
        state.failures += 1
        state.reason = record.problem = reason
        state.is_barred = is_barred
        state.retry_at_s = now_s + (
            self._settings.barred_s if is_barred else self._plan.backoff_s(state.failures)
        )

    def dial_ended(self, key: str, *, reason: str = "", is_foreign: bool = False) -> None:
        """Note that an attempt is over without a link; `is_foreign`: the handshake said that it is another
        flock.
        """
        record = self.get(key)
        if record is None:
            return
        record.dialling_until_s = None
        record.problem = reason or record.problem
        if is_foreign and not record.is_linked:
            record.is_foreign = True

    # --- what links say ---

    def authenticated(
        self,
        device_id: bytes,
        now_s: float,
        *,
        address: Address | None = None,
        name: str = "",
        version: int | None = None,
    ) -> PeerRecord:
        """Note that a handshake proved `device_id` (at `address`, where it can be dialled); merge what
        belongs to it.

        Raises IdentityError if it is our own id (call `met_self`), PeerRefused if the table is full of
        proven peers.
        """
        if device_id == self._own_id:
            raise IdentityError("the peer that answered is this device itself, or a clone of its key")
        record = self.get(device_id)
        if record is None:
            if not self._make_room(is_foreign=False) and not self._drop_unlinked():
                raise PeerRefused("no room for another peer", reason="full", remedy="raise max_peers")
            record = self._create(device_id.hex(), now_s)
        record.device_id = record.claimed_id = device_id
        record.is_authenticated = record.is_linked = True
        record.is_foreign = False
        record.flock_tag = self._flock_tags[0]
        record.heard_s = record.last_seen_s = now_s
        record.dialling_until_s, record.problem = None, ""
        record.name = name or record.name
        record.version = version if version is not None else record.version
        if address is not None and address not in self._own_addresses:
            self._settle(record, address, now_s)
        return record

    def _settle(self, record: PeerRecord, address: Address, now_s: float) -> None:
        """Make `address` belong to `record`: absorb the owner's nameless entry, bar everybody else who
        claims it.
        """
        for other in tuple(self._records.values()):
            state = other.addresses.get(address)
            if other is record or state is None:
                continue
            if other.device_id is None and other.claimed_id is None:
                self._absorb(record, other)
            elif state.is_proven or not state.sources - {SourceKind.REMEMBERED}:
                del other.addresses[address]
            else:
                self.failed(other.key, address, "another peer answered here", now_s, is_barred=True)
        state = record.addresses.get(address)
        if state is None:
            if len(record.addresses) >= self._settings.max_addresses and not self._drop_worst_address(record):
                oldest = min(
                    record.addresses.values(), key=lambda s: (s.proven_s or -math.inf, s.last_seen_s)
                )
                del record.addresses[oldest.address]
            state = record.addresses[address] = AddressState(address, first_seen_s=now_s)
        state.proven_s = state.last_seen_s = now_s
        state.failures, state.reason, state.retry_at_s, state.is_barred = 0, "", now_s, False

    def _absorb(self, record: PeerRecord, other: PeerRecord) -> None:
        """Merge the nameless entry `other` into `record` and keep its label as an alias."""
        for address, state in other.addresses.items():
            if address in record.addresses:
                record.addresses[address].sources |= state.sources
            elif len(record.addresses) < self._settings.max_addresses or self._drop_worst_address(record):
                record.addresses[address] = state
        record.label = record.label or other.label
        record.first_seen_s = min(record.first_seen_s, other.first_seen_s)
        self._aliases[other.key] = record.key
        self._forget(other)

    def _drop_unlinked(self) -> bool:
        """Forget the proven stranger that was silent longest; the owner's and remembered peers stay."""
        loose = [
            r for r in self._records.values() if not r.is_linked and not r.label and not r.sources & _TRUSTED
        ]
        if not loose:
            return False
        self._forget(min(loose, key=lambda record: record.heard_s or -math.inf))
        return True

    def met_self(self, address: Address) -> None:
        """Note that we ourselves answer at `address`: it is never dialled again."""
        self._own_addresses.add(address)
        for record in tuple(self._records.values()):
            if record.addresses.pop(address, None) is not None and not record.addresses:
                record.problem = "that address is this device itself"
                record.dialling_until_s = None
                if not record.is_protected:
                    self._forget(record)

    def heard_from(self, device_id: bytes, now_s: float) -> bool:
        """Note a heartbeat over an authenticated link; False for a peer that never proved itself."""
        record = self.get(device_id)
        if record is None or not record.is_authenticated:
            return False
        record.heard_s = record.last_seen_s = now_s
        return True

    def unlinked(self, device_id: bytes, now_s: float, reason: str) -> None:
        """Note that the link to a peer ended; it is dialled again after about `backoff_first_s`."""
        record = self.get(device_id)
        if record is None:
            return
        record.is_linked = False
        record.problem = reason
        record.not_before_s = now_s + self._plan.backoff_s(1)

    def shareable(self, limit: int = 32) -> list[tuple[bytes, Address]]:
        """Return up to `limit` proven (device id, address) pairs to tell a peer, drawn at random, no
        loopback.
        """
        pairs = [
            (record.device_id, state.address)
            for record in self._records.values()
            for state in record.addresses.values()
            if record.device_id is not None
            and record.is_authenticated
            and state.is_proven
            and (self._settings.allow_loopback or not is_loopback(state.address.host))
        ]
        if len(pairs) <= limit:
            return pairs
        return [pairs[int(i)] for i in self._rng.choice(len(pairs), size=limit, replace=False)]
