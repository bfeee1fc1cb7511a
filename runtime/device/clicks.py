"""The clicks that this device holds, own and of others: log, store and ranking models, always in step.

Whatever comes in is learnt and stored, whatever gives way or is condemned is unlearnt and removed, in one transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

from flocklet.device.ranker import Ranker
from flocklet.errors import WireError
from flocklet.events.click import MAX_SHOWN, NO_CLICK, ClickEntry
from flocklet.events.click_log import ClickLog
from flocklet.events.click_outcome import Absorbed, Proof
from flocklet.identity.key import Identity, origin_of
from flocklet.store.store import Click, Event, Store

__all__ = ["Clicks"]

_log = logging.getLogger("flocklet.device")


def _looked_at(shown: tuple[int, ...], clicked: int) -> tuple[tuple[int, ...], int]:
    """Return what an entry holds of a list: its first ten, or the first nine and what was clicked further down."""
    if clicked == NO_CLICK or clicked < MAX_SHOWN:
        return shown[:MAX_SHOWN], clicked
    return (*shown[: MAX_SHOWN - 1], shown[clicked]), MAX_SHOWN - 1


class Clicks:
    """Sign, take in, give up and read back clicks. Raises StoreError when the store cannot be used."""

    def __init__(self, store: Store, log: ClickLog, ranker: Ranker) -> None:
        self.store = store
        self.log = log
        self._ranker = ranker

    def sign(
        self, rows: Sequence[tuple[Identity, Event, int]], query_id: int | None, at_s: Callable[[], float]
    ) -> list[ClickEntry]:
        """Sign what people here chose, (person, event, index), with the time of now for a `query_id`, else of the event.

        Store first, then tell the log: a sequence number that was shown must never be used again.
        """
        entries: list[ClickEntry] = []
        seqs: dict[bytes, int] = {}
        for person, event, clicked in rows:
            if person.origin not in seqs:
                held = (self.store.next_seq(person.origin), self.log.next_seq(person.origin))
                seqs[person.origin] = max(held)
            seq = seqs[person.origin]
            seqs[person.origin] = seq + 1
            ts = max(0, int(event.at_s if query_id is None else at_s()))
            shown, place = _looked_at(event.shown, clicked)
            entries.append(
                ClickEntry.signed(person, seq=seq, query=event.query, shown=shown, clicked=place, ts=ts)
            )
        self.store.add_clicks([Click(e.origin, e.seq, e.encode()) for e in entries], query_id=query_id)
        for entry in entries:
            self._give_up(self.log.restore(entry))
            self._ranker.learn(entry)
        return entries

    def settle(self, got: Absorbed, via: bytes) -> None:
        """Keep and learn what the log accepted from the peer `via`; forget and unlearn what gave way or was condemned."""
        with self.store.transaction():
            for entry in got.accepted:
                self._ranker.learn(entry)
            for entry in got.evicted:
                self._ranker.unlearn(entry)
            if got.keys:
                self.store.add_origins([(origin_of(key), key) for key in got.keys], via=via)
            if got.accepted:
                self.store.add_clicks([Click(e.origin, e.seq, e.encode()) for e in got.accepted])
            if got.evicted:
                self.store.remove_clicks([(e.origin, e.seq) for e in got.evicted])
            if got.forgotten:
                self.store.remove_origins([who for who in got.forgotten if self.log.key_of(who) is None])
            for proof in got.proofs:
                packed = len(proof.first).to_bytes(2, "big") + proof.first + proof.second
                self.store.condemn_origin(origin_of(proof.public_key), proof.public_key, packed)

    def banish(self, origins: Collection[bytes]) -> int:
        """Forget these people's clicks everywhere and take none of them again; return how many went."""
        got = self.log.banish(origins)
        self.settle(got, b"")
        return len(got.evicted)

    def restore(self) -> None:
        """Read what was kept, within the quotas of now: what has no room any more leaves the store as well."""
        homeless: set[bytes] = set()
        for origin, public_key, packed, via in self.store.origins():
            if self.log.learn_key(public_key, via=via) is None:
                homeless.add(origin)
            elif packed is not None:
                self.log.condemn(_proof_of(public_key, packed))
        for click in self.store.clicks():
            if click.origin in homeless:
                self.store.remove_clicks([(click.origin, click.seq)])
                continue
            try:
                entry = ClickEntry.decode(click.entry)
                evicted = self.log.restore(entry)
            except WireError as error:
                _log.warning("a stored click of %s is left out: %s", click.origin.hex()[:12], error)
                continue
            if (entry.origin, entry.seq) in self.log or entry in evicted:
                self._ranker.learn(entry)
            self._give_up(evicted)
        self.store.remove_origins(homeless)

    def _give_up(self, entries: Collection[ClickEntry]) -> None:
        if entries:
            for entry in entries:
                self._ranker.unlearn(entry)
            self.store.remove_clicks([(entry.origin, entry.seq) for entry in entries])


def _proof_of(public_key: bytes, packed: bytes) -> Proof:
    size = int.from_bytes(packed[:2], "big")
    return Proof(public_key, packed[2 : 2 + size], packed[2 + size :])
