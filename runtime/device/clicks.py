"""The clicks that this device gives to peers and takes from them; `flocklet.node.gossip` carries the messages.

Every entry is signed by the person who clicked. What was accepted is stored before anybody else hears of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Any

from flocklet.clock import Clock
from flocklet.device.ranker import Ranker
from flocklet.events.click_log import Absorbed, ClickLog, Proof
from flocklet.events.click_sync import Pull, pull_answer
from flocklet.identity.key import origin_of
from flocklet.store.store import Click, Store
from flocklet.wire.frame import content_id

__all__ = ["ClickExchange", "proof_of"]


class ClickExchange:
    """Answer peers' pulls and take in what our own bring; `own()` are the origins of the people hosted here.

    Raises StoreError when the store cannot be used, WireError for bytes that no honest peer sends.
    """

    def __init__(
        self,
        store: Store,
        log: ClickLog,
        ranker: Ranker,
        clock: Clock,
        own: Callable[[], Collection[bytes]],
        turn: threading.RLock,
    ) -> None:
        self._store = store
        self._log = log
        self._ranker = ranker
        self._clock = clock
        self._own = own
        self._turn = turn

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer a peer's pull."""
        with self._turn:
            return pull_answer(self._log, request)

    def start_pull(self, peer_id: bytes) -> Pull:
        """Begin to ask a peer for the entries that we lack."""
        with self._turn:
            return Pull(self._log, via=peer_id)

    def take(self, pull: Pull, answer: dict[str, Any], peer_id: bytes) -> int:
        """Take a peer's answer in: check, store, learn; return how many entries were new.

        What was accepted before a malformed part is kept.
        """
        with self._turn:
            before = len(pull.absorbed.accepted)
            marks = (len(pull.absorbed.evicted), len(pull.absorbed.proofs), len(pull.absorbed.keys))
            try:
                pull.take(answer, self._clock.monotonic())
            finally:
                got = pull.absorbed
                news = Absorbed(
                    got.accepted[before:],
                    got.evicted[marks[0] :],
                    proofs=got.proofs[marks[1] :],
                    keys=got.keys[marks[2] :],
                )
                with self._store.transaction():
                    self._settle(news)
                    if news.accepted:
                        content = answer["e"] + answer["s"]
                        self._store.add_delta(content_id(content), peer_id, len(content), self._clock.time())
            return len(pull.absorbed.accepted) - before

    def _settle(self, got: Absorbed) -> None:
        own = self._own()
        for entry in got.accepted:
            self._ranker.learn(entry)
        for entry in got.evicted:
            self._ranker.unlearn(entry)
        self._store.add_origins([(origin_of(key), key) for key in got.keys])
        self._store.add_clicks([Click(e.origin, e.seq, e.encode()) for e in got.accepted])
        self._store.remove_clicks([(e.origin, e.seq) for e in got.evicted if e.origin not in own])
        for proof in got.proofs:
            packed = len(proof.first).to_bytes(2, "big") + proof.first + proof.second
            self._store.condemn_origin(origin_of(proof.public_key), proof.public_key, packed)


def proof_of(public_key: bytes, packed: bytes) -> Proof:
    """Return an equivocation proof as the store keeps it."""
    size = int.from_bytes(packed[:2], "big")
    return Proof(public_key, packed[2 : 2 + size], packed[2 + size :])
