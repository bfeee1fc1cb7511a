"""The signed pages of trust and taste that a device holds and passes on: so many of an author, of a device, and in all."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

from flocklet.events.edge import Page
from flocklet.events.shares import Shares, Standing

__all__ = ["EdgePool", "PageLimits"]

_DECLINED_MOST = 2_048


@dataclass(frozen=True, slots=True)
class PageLimits:
    """Pages of one author, of strangers that one device brought, of strangers in all, of friends in all."""

    of_author: int = 64
    of_device: int = 4_096
    strangers: int = 16_384
    friends: int = 16_384


@dataclass(slots=True)
class EdgePool:
    """Pages by author with the number of their arrival, newest first, and the authors' keys.

    When there is no room, strangers give way first: of the device that brought most, the author with most, its oldest.
    People of this device never do. `declined` are pages that gave way, so that they are not asked for again.
    """

    limits: PageLimits = field(default_factory=PageLimits)
    pages: dict[bytes, list[tuple[int, bytes]]] = field(default_factory=dict)
    keys: dict[bytes, bytes] = field(default_factory=dict)
    declined: dict[bytes, None] = field(default_factory=dict)
    _via: dict[bytes, bytes] = field(default_factory=dict)
    _standing: dict[bytes, Standing] = field(default_factory=dict)
    _shares: dict[Standing, Shares] = field(default_factory=lambda: {one: Shares() for one in Standing})
    _friends: Set[bytes] = frozenset()
    _own: Set[bytes] = frozenset()
    _arrivals: int = 0

    def __len__(self) -> int:
        return sum(shares.total for shares in self._shares.values())

    @property
    def strangers(self) -> int:
        """How many pages of strangers are held."""
        return self._shares[Standing.STRANGER].total

    def regard(self, own: Set[bytes], friends: Set[bytes]) -> None:
        """Take note of who is hosted here and whom trust reaches; everybody else is a stranger."""
        if own == self._own and (friends is self._friends or friends == self._friends):
            return
        self._own, self._friends = own, friends
        for src, rows in self.pages.items():
            before, now = self._standing[src], self._standing_of(src)
            if before is not now:
                self._shares[before].add(self._via[src], src, -len(rows))
                self._shares[now].add(self._via[src], src, len(rows))
                self._standing[src] = now

    def put(self, page: Page, public_key: bytes, *, via: bytes = b"") -> list[bytes]:
        """Hold a page that the device `via` brought; return the pages that gave way, which may be this one."""
        src = page.src
        held = self.pages.get(src)
        if held is None:
            held = self.pages[src] = []
            self._via[src], self._standing[src] = via, self._standing_of(src)
            self.keys[src] = public_key
        if any(raw == page.raw for _, raw in held):
            return []
        self._arrivals += 1
        held.insert(0, (self._arrivals, page.raw))
        self._shares[self._standing[src]].add(self._via[src], src)
        is_own = self._standing[src] is Standing.OWN
        gone = [self._drop(src)] if len(held) > self.limits.of_author and not is_own else []
        if (victim := self._victim(self._via.get(src, b""))) is not None:
            gone.append(self._drop(victim))
        return gone

    def take_out(self, src: bytes) -> list[bytes]:
        """Take every page of an author out and return them: they are about to be replaced."""
        rows = self.pages.pop(src, [])
        if rows:
            self._shares[self._standing.pop(src)].add(self._via.pop(src), src, -len(rows))
        return [raw for _, raw in rows]

    def _standing_of(self, src: bytes) -> Standing:
        if src in self._own:
            return Standing.OWN
        return Standing.FRIEND if src in self._friends else Standing.STRANGER

    def _victim(self, via: bytes) -> bytes | None:
        strangers, friends = self._shares[Standing.STRANGER], self._shares[Standing.FRIEND]
        if strangers.of_device(via) > self.limits.of_device:
            return strangers.worst(via)
        if strangers.total > self.limits.strangers:
            return strangers.worst()
        return friends.worst() if friends.total > self.limits.friends else None

    def _drop(self, src: bytes) -> bytes:
        raw = self.pages[src].pop()[1]
        self._shares[self._standing[src]].add(self._via[src], src, -1)
        if not self.pages[src]:
            del self.pages[src], self._via[src], self._standing[src], self.keys[src]
        self.declined[raw] = None
        if len(self.declined) > _DECLINED_MOST:
            del self.declined[next(iter(self.declined))]
        return raw
