"""Count who clicked what for which query, and keep the three kappas of G-Rank up to date as counters.

For persons i and j (Gold & Pouwelse, arXiv 2301.12530, III.B), over clicked (query, item) tuples:

    kappa_m = |tuples(i) & tuples(j)|    kappa_u = |tuples(i) | tuples(j)| = n_i + n_j - kappa_m
    kappa_t = |top-10 terms(i) & top-10 terms(j)|, terms by how often they were asked, ties in order of the
    code points

Only persons that were asked about (`similarity_counts`) get a row of counters, so a device pays for the
persons that it hosts and not for all pairs. A click costs time linear in the clicks on its query, a few
microseconds of NumPy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TOP_TERMS", "ClickTally", "QueryCells"]

TOP_TERMS = 10

Ints = NDArray[np.int32]


class QueryCells:
    """Hold one query's sparse counts: parallel arrays origin, position of the item, count."""

    __slots__ = ("_at", "_count", "_origin", "_place", "items", "places", "size")

    def __init__(self) -> None:
        self.items: list[int] = []
        self.places: dict[int, int] = {}
        self.size = 0
        self._at: dict[int, int] = {}
        self._origin: Ints = np.zeros(4, dtype=np.int32)
        self._place: Ints = np.zeros(4, dtype=np.int32)
        self._count: Ints = np.zeros(4, dtype=np.int32)

    def arrays(self) -> tuple[Ints, Ints, Ints]:
        """Return views of (origin, place, count); a count may be 0."""
        return self._origin[: self.size], self._place[: self.size], self._count[: self.size]

    def add(self, origin: int, item: int, amount: int) -> tuple[int, int]:
        """Add to the count of (origin, item); return the counts before and after."""
        place = self.places.get(item)
        if place is None:
            place = self.places[item] = len(self.items)
            self.items.append(item)
        key = place << 32 | origin
        at = self._at.get(key)
        if at is None:
            at = self._at[key] = self.size
            if at == len(self._origin):
                self._origin, self._place, self._count = (
                    np.concatenate([column, np.zeros_like(column)])
                    for column in (self._origin, self._place, self._count)
                )
            self._origin[at], self._place[at] = origin, place
            self.size += 1
        before = int(self._count[at])
        self._count[at] = before + amount
        return before, before + amount

    def count(self, origin: int, item: int) -> int:
        """Return how often `origin` clicked `item` for this query."""
        at = self._at.get(self.places.get(item, -1) << 32 | origin)
        return 0 if at is None else int(self._count[at])

    def fans(self, item: int) -> Ints:
        """Return the origins that clicked `item` for this query."""
        origin, place, count = self.arrays()
        chosen: Ints = origin[(place == self.places[item]) & (count > 0)]
        return chosen


class ClickTally:
    """Count clicks by (origin, query, item) and keep kappa_t, kappa_m and kappa_u for the persons asked
    about."""

    def __init__(self, top_terms: int = TOP_TERMS) -> None:
        self.origins: list[bytes] = []
        self.queries: dict[str, QueryCells] = {}
        self._ids: dict[bytes, int] = {}
        self._top_terms = top_terms
        self._terms: list[Counter[str]] = []
        self._top: list[set[str]] = []
        self._holders: dict[str, set[int]] = {}
        self._pairs: Ints = np.zeros(8, dtype=np.int32)
        self._row: Ints = np.full(8, -1, dtype=np.int32)
        self._rows: list[int] = []
        self._matches: Ints = np.zeros((0, 8), dtype=np.int32)
        self._shared: Ints = np.zeros((0, 8), dtype=np.int32)

    def id_of(self, origin: bytes) -> int | None:
        """Return the number of `origin`, None when nothing of it was counted."""
        return self._ids.get(origin)

    def intern(self, origin: bytes) -> int:
        """Return the number of `origin`, a new one when it is unknown."""
        number = self._ids.get(origin)
        if number is None:
            number = self._ids[origin] = len(self.origins)
            self.origins.append(origin)
            self._terms.append(Counter())
            self._top.append(set())
            if number == len(self._pairs):
                self._grow()
        return number

    def add_click(self, origin: int, query: str, item: int, amount: int = 1) -> None:
        """Count `amount` clicks (negative: take them back); raises ValueError below zero."""
        cells = self.queries.get(query)
        if amount < 0 and (cells is None or cells.count(origin, item) < -amount):
            raise ValueError("a click that was not counted cannot be taken back")
        if cells is None:
            cells = self.queries[query] = QueryCells()
        before, after = cells.add(origin, item, amount)
        if (before > 0) != (after > 0):
            self._count_pair(origin, cells.fans(item), 1 if after > 0 else -1)

    def add_terms(self, origin: int, terms: Iterator[str] | list[str], amount: int = 1) -> None:
        """Count that `origin` asked for these terms, `amount` times each."""
        asked = self._terms[origin]
        for term in terms:
            top = self._top[origin]
            if asked[term] + amount < 0:
                raise ValueError("a term that was not counted cannot be taken back")
            asked[term] += amount
            if asked[term] <= 0:
                del asked[term]
            if amount > 0 and term in top:
                continue
            if amount > 0 and len(top) >= self._top_terms:
                worst = max(top, key=lambda held: (-asked[held], held))
                if (-asked[term], term) < (-asked[worst], worst):
                    self._swap_top(origin, {worst}, {term})
                continue
            wanted = set(sorted(asked, key=lambda held: (-asked[held], held))[: self._top_terms])
            self._swap_top(origin, top - wanted, wanted - top)

    def similarity_counts(self, me: int) -> tuple[Ints, Ints, Ints]:
        """Return (kappa_t, kappa_m, kappa_u) of `me` with everybody, (n,) int32; 0, 0, n_me with itself."""
        row = int(self._row[me])
        if row < 0:
            row = self._open_row(me)
        size = len(self.origins)
        matches = self._matches[row, :size]
        union = self._pairs[me] + self._pairs[:size] - matches
        union[me] = self._pairs[me]
        return self._shared[row, :size], matches, union

    def terms(self) -> Iterator[tuple[int, str, int]]:
        """Yield (origin, term, how often asked)."""
        for origin, asked in enumerate(self._terms):
            for term, count in asked.items():
                yield origin, term, count

    def _count_pair(self, origin: int, fans: Ints, sign: int) -> None:
        others = fans[fans != origin]
        self._pairs[origin] += sign
        if self._row[origin] >= 0:
            self._matches[self._row[origin], others] += sign
        if self._rows:
            rows = self._row[others]
            self._matches[rows[rows >= 0], origin] += sign

    def _swap_top(self, origin: int, out: set[str], into: set[str]) -> None:
        for term in out:
            self._holders[term].discard(origin)
            self._count_term(origin, self._holders[term], -1)
            if not self._holders[term]:
                del self._holders[term]
        for term in into:
            holders = self._holders.setdefault(term, set())
            self._count_term(origin, holders, 1)
            holders.add(origin)
        self._top[origin] = (self._top[origin] - out) | into

    def _count_term(self, origin: int, holders: set[int], sign: int) -> None:
        if not self._rows or not holders:
            return
        others = np.fromiter(holders, dtype=np.int32, count=len(holders))
        if self._row[origin] >= 0:
            self._shared[self._row[origin], others] += sign
        rows = self._row[others]
        self._shared[rows[rows >= 0], origin] += sign

    def _open_row(self, me: int) -> int:
        row = len(self._rows)
        if row == len(self._matches):
            more = np.zeros((max(4, row), self._matches.shape[1]), dtype=np.int32)
            self._matches = np.concatenate([self._matches, more])
            self._shared = np.concatenate([self._shared, more])
        self._rows.append(me)
        self._row[me] = row
        for cells in self.queries.values():
            origin, place, count = cells.arrays()
            mine = np.zeros(len(cells.items), dtype=bool)
            mine[place[(origin == me) & (count > 0)]] = True
            if mine.any():
                np.add.at(self._matches[row], origin[mine[place] & (count > 0)], 1)
        for term in self._top[me]:
            self._shared[row, list(self._holders[term])] += 1
        self._matches[row, me] = self._shared[row, me] = 0
        return row

    def _grow(self) -> None:
        def wider(array: NDArray[Any], fill: int) -> NDArray[Any]:
            return np.concatenate([array, np.full_like(array, fill)], axis=-1)

        self._pairs, self._row = wider(self._pairs, 0), wider(self._row, -1)
        self._matches, self._shared = wider(self._matches, 0), wider(self._shared, 0)
