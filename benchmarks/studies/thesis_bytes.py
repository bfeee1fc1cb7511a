"""Weigh the pulls of a simulated G-Rank network in real messages: real keys, signatures, entries and msgpack.

Each watched exchange of the simulation becomes two real click logs, what the source hands on and what the
sink knows, and one real pull between them. Item ids are 64-bit hashes, so nothing is smaller than it would
be on the air; frame headers and TLS records (about 120 bytes per message) are not counted.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from flocklet.events.click import ClickEntry
from flocklet.events.click_log import ClickLog, Limits
from flocklet.events.click_sync import Pull, answer
from flocklet.events.item import item_id_of
from flocklet.identity.key import Identity
from flocklet.wire.body import pack_body
from flocklet.wire.schema import body_of
from studies.thesis import Simulation

__all__ = ["Scale"]


class Scale:
    """Watch a simulation (`simulate(config, seed, scale)`) and weigh every `every`-th pull while `is_on()`.

    `sizes` holds (bytes of requests and answers, entries brought) of each weighed pull.
    """

    def __init__(self, every: int = 100, is_on: Callable[[Simulation], bool] | None = None) -> None:
        self.sizes: list[tuple[int, int]] = []
        self._every = every
        self._is_on = is_on
        self._seen = 0
        self._people: list[Identity] = []
        self._entries: list[ClickEntry] = []

    def __call__(self, run: Simulation, source: int, sink: int) -> None:
        """Weigh this exchange if its turn has come."""
        self._seen += 1
        if self._seen % self._every == 0 and (self._is_on is None or self._is_on(run)):
            self.sizes.append(self._weigh(run, source, sink))

    def _weigh(self, run: Simulation, source: int, sink: int) -> tuple[int, int]:
        self._write(run)
        asked, asker = self._log(run, run.shares[source]), self._log(run, run.known[sink])
        pull, size = Pull(asker), 0
        while pull.request is not None:
            told = answer(asked, pull.request)
            size += sum(len(pack_body(body_of(message))) for message in (pull.request, told))
            pull.take(told, 0.0)
        return size, len(pull.absorbed.accepted)

    def _write(self, run: Simulation) -> None:
        for number in range(len(self._people), run.total):
            self._people.append(Identity.from_seed(number.to_bytes(32, "big")))
        log, catalogue = run.entries, run.catalogue
        for number in range(len(self._entries), log.size):
            pair = log.pair[number]
            shown = [int(item) for item in log.shown[number] if item >= 0]
            made = ClickEntry.signed(
                self._people[log.author[number]],
                seq=int(log.seq[number]),
                query=catalogue.tags[catalogue.query[pair]],
                shown=tuple(item_id_of(catalogue.titles[item]) for item in shown),
                clicked=shown.index(int(catalogue.item[pair])),
                ts=1_700_000_000 + 60 * number,
            )
            self._entries.append(made)

    def _log(self, run: Simulation, held: NDArray[np.bool_]) -> ClickLog:
        log = ClickLog(Limits(quota=10**9, max_entries=10**9))
        numbers = np.flatnonzero(held[: run.entries.size])
        for author in np.unique(run.entries.author[numbers]):
            log.learn_key(self._people[author].public_key)
        for number in numbers:
            log.restore(self._entries[number])
        return log
