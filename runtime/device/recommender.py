"""What one device knows of trust and taste: signed edges in, recommendations with their reasons out.

The graph (`flocklet.models.recommend.graph`) is bounded and in memory; the signed pages that it came from are in the
store, so that they can be passed on. A snapshot of the graph lies beside the store and makes a start fast; pages that
came after it are read again. A device signs, with its own key, that it trusts the people it hosts: so whoever trusts
a device reaches its people.

`flocklet.device.edge_feed` exchanges the pages with peers.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from flocklet.clock import Clock
from flocklet.errors import StoreError, UsageError, WireError
from flocklet.events.edge import MAX_PAGE_EDGES, Page, read_page, sign_page
from flocklet.events.edge_pool import EdgePool, PageLimits
from flocklet.events.item import item_id_of
from flocklet.identity.key import Identity, origin_of
from flocklet.models.recommend.graph import Graph
from flocklet.models.recommend.view import TrustView, reach
from flocklet.store.store import Store

__all__ = ["LIKED_STARS", "Taste"]

_log = logging.getLogger("flocklet.device")
_LEAST_DIGITS = 6
_SNAPSHOT = "graph.npz"
_SMALL_PAGES = 32
STALE_S = 30.0
LIKED_STARS = 4.0
TOP_STARS = 5.0


class Taste:
    """Trust and taste of the people of one device.

    Raises:
        StoreError: from every method that writes, when the store cannot be used.
    """

    def __init__(
        self,
        store: Store,
        folder: Path,
        clock: Clock,
        device: Identity,
        people: Callable[[], Mapping[str, Identity]],
        page_limits: PageLimits | None = None,
    ) -> None:
        self.store, self.clock = store, clock
        self._folder, self._device, self._people = folder, device, people
        self._pool: EdgePool | None = None
        self._page_limits = page_limits or PageLimits()
        self._friends: tuple[int, set[bytes]] = (-1, set())
        self.graph = Graph(own=self._own())
        self._upto = 0
        self._view: tuple[int, float, bytes, TrustView | None] = (-1, 0.0, b"", None)
        self._banished: set[bytes] = set()
        self._saved = self._load()

    def _own(self) -> set[bytes]:
        return {self._device.origin, *(who.origin for who in self._people().values())}

    # -- opinions of the people here --

    def trust(self, person: Identity, target: bytes, weight: float) -> None:
        """Sign and keep that `person` trusts (1), distrusts (-1) or no longer has an opinion of (0) `target`."""
        if target == person.origin:
            raise UsageError("trust leads to somebody else")
        self._sign(person, [(target, weight, None)])

    def rate(self, person: Identity, item_id: int, stars: float, name: str | None = None) -> None:
        """Sign and keep a rating of 0.5 to 5 stars; 0 takes it back."""
        if not 0 <= stars <= TOP_STARS:
            raise UsageError(f"{stars:g} stars", remedy="0.5 to 5, or 0 to take a rating back")
        if name is not None:
            self.store.name_items([(item_id, name)])
        self._sign(person, [(item_id, stars / TOP_STARS, None)])

    def record(self, ratings: Iterable[tuple[Identity, int, float, int]]) -> int:
        """Sign and keep ratings of the past, (person, item, stars, seconds); return how many were news."""
        by_person: dict[bytes, tuple[Identity, list[tuple[bytes | int, float, int | None]]]] = {}
        for person, item_id, stars, at_s in ratings:
            rows = by_person.setdefault(person.origin, (person, []))[1]
            rows.append((item_id, min(max(stars, 0.0), TOP_STARS) / TOP_STARS, at_s))
        return sum(self._sign(person, rows) for person, rows in by_person.values())

    def _sign(self, person: Identity, opinions: Sequence[tuple[bytes | int, float, int | None]]) -> int:
        """Sign opinions, the time None for now; a later opinion wins even when the clock was set back."""
        self.graph.own = self._own()
        dated = []
        for target, weight, at_s in opinions:
            held = self.graph.version(person.origin, target)
            ts = self._next(held) if at_s is None else max(0, at_s)
            dated.append((target, weight, ts))
        pages = [
            sign_page(person, dated[at : at + MAX_PAGE_EDGES]) for at in range(0, len(dated), MAX_PAGE_EDGES)
        ]
        self.vouch(person)
        told = self.keep(pages, {person.origin: person.public_key})
        if sum(len(p.edges) == 1 for p in pages) and len(self.pool.pages[person.origin]) > _SMALL_PAGES:
            self._consolidate(person)
        return told["taken"]

    def _next(self, held: tuple[int, float] | None) -> int:
        """Return the number of a newer version of an edge: the time, and more than the last, whatever the clock says."""
        ts = max(int(self.clock.time()), held[0] + 1 if held else 0)
        if ts >= 2**32:
            raise UsageError("the last opinion on this is dated 2106, so none can be newer")
        return max(0, ts)

    def _consolidate(self, person: Identity) -> None:
        """Replace many small pages of a person by few full ones."""
        rows: list[tuple[bytes | int, float, int]] = [
            (e.target, e.weight, e.ts) for e in self.graph.edges_of(person.origin)
        ]
        old = self.pool.take_out(person.origin)
        pages = [
            sign_page(person, rows[at : at + MAX_PAGE_EDGES]) for at in range(0, len(rows), MAX_PAGE_EDGES)
        ]
        with self.store.transaction():
            self.keep(pages, {person.origin: person.public_key})
            self.store.remove_edge_pages({_digest(raw) for raw in old} - {_digest(p.raw) for p in pages})

    def vouch(self, person: Identity) -> bool:
        """Sign, once, that this device answers for a person who lives here; return whether that was news."""
        if person.origin == self._device.origin or self.graph.version(self._device.origin, person.origin):
            return False
        self.graph.own = self._own()
        page = sign_page(self._device, [(person.origin, 1.0, self._next(None))])
        self.keep([page], {self._device.origin: self._device.public_key})
        return True

    def answered_for_by(self, device_id: bytes) -> set[bytes]:
        """Return the origins of a device and of the people it vouched for, but for those whom people here trust."""
        origin = device_id[:16]
        vouched = {
            e.target for e in self.graph.edges_of(origin) if isinstance(e.target, bytes) and e.weight > 0
        }
        own = self._own()
        trusted = {
            e.target
            for one in own - {self._device.origin}
            for e in self.graph.edges_of(one)
            if isinstance(e.target, bytes) and e.weight > 0
        }
        return {origin, *vouched} - own - trusted

    def banish(self, origins: Collection[bytes]) -> int:
        """Forget what these people signed and take nothing of them again; return how many pages went."""
        self._banished |= set(origins)
        gone = [raw for origin in origins for raw in self.pool.take_out(origin)]
        with self.store.transaction():
            self._give_way(gone)
        return len(gone)

    # -- signed pages --

    @property
    def pool(self) -> EdgePool:
        """The signed pages that may be passed on, read from the store on first use."""
        if self._pool is None:
            self._pool = EdgePool(self._page_limits)
            self._pool.regard(self._own(), self.reached())
            gone: list[bytes] = []
            keys = {origin: key for origin, key, *_ in self.store.origins()}
            brought = {origin: via for origin, _, _, via in self.store.origins()}
            for _, src, raw in self.store.edge_pages():
                if src in keys:
                    with contextlib.suppress(WireError):  # `_load` has said so already
                        gone += self._pool.put(read_page(raw), keys[src], via=brought[src])
            self._give_way(gone)
        return self._pool

    def name_items(self, names: Iterable[str]) -> None:
        """Keep what items are called that are in an edge here and have no name yet."""
        new = [(item_id_of(name), name) for name in names]
        self.store.name_items(
            (item, name)
            for item, name in new
            if item in self.graph.items and self.store.item_name(item) is None
        )

    def _give_way(self, gone: Sequence[bytes]) -> None:
        """Take pages that gave way out of graph and store."""
        if gone:
            self.graph.forget([edge for raw in gone for edge in read_page(raw).edges])
            self.store.remove_edge_pages(map(_digest, gone))

    def keep(self, pages: Sequence[Page], keys: Mapping[bytes, bytes], *, via: bytes = b"") -> Counter[str]:
        """Take signed pages, whose authors have these keys, into graph and store; return what became of the edges.

        `via` is the peer that brought them.
        """
        told: Counter[str] = Counter()
        rows = []
        gone: list[bytes] = []
        friends = self.reached()
        self.pool.regard(self._own(), friends)
        for page in pages:
            if page.src in self._banished:
                told["banished"] += 1
                continue
            is_friend = not friends or page.src in friends
            taken = self.graph.add(page.edges, is_friend=is_friend)
            told += taken
            if taken["taken"] or page.src in self.graph.own:
                rows.append((_digest(page.raw), page.src, page.raw))
                gone += self.pool.put(page, keys[page.src], via=via)
        with self.store.transaction():
            self.store.add_origins([(origin_of(key), key) for key in keys.values()], via=via)
            self.store.add_edge_pages(rows)
            self._give_way(gone)
        return told

    def reached(self) -> set[bytes]:
        """Return whom trust reaches from here, as of the last change of trust; empty when nobody trusts."""
        generation, friends = self._friends
        if generation != self.graph.trust_generation:
            friends = reach(self.graph, self._own())
            self._friends = (self.graph.trust_generation, friends)
        return friends

    # -- answers --

    def view(self, person: Identity) -> TrustView:
        """Return the graph as `person` sees it."""
        return TrustView(self.graph, person.origin)

    def fitted(self, person: Identity, words: Callable[[int], Sequence[str]]) -> TrustView:
        """Return a fitted view; the last one of the same person serves until somebody else's edges are `STALE_S` old.

        The person's own ratings count at once, also in a view that was fitted before them.
        """
        generation, at_s, ego, view = self._view
        is_stale = generation != self.graph.generation and self.clock.monotonic() - at_s >= STALE_S
        if view is None or ego != person.origin or is_stale:
            view = self.view(person)
            view.fit(words)
            self._view = (self.graph.generation, self.clock.monotonic(), person.origin, view)
        return view

    def names(self) -> dict[bytes, str]:
        """Return what to call people: those here by name, this device as such."""
        return {
            self._device.origin: "this device",
            **{who.origin: name for name, who in self._people().items()},
        }

    def origin_called(self, text: str) -> bytes:
        """Return the origin that a name, a device id, the short id of `flocklet peers` or 32 hex digits means.

        Six digits or more of what is known here are enough: of people in the graph, and of every peer that ever proved
        its key to us, whether or not it said anything yet.

        Raises:
            UsageError: nobody is called so, or several are.
        """
        from flocklet.errors import IdentityError
        from flocklet.identity.key import parse_id

        if text in self._people():
            return self._people()[text].origin
        with contextlib.suppress(IdentityError):
            return parse_id(text)[:16]
        peers = {peer.device_id[:16]: peer.name for peer in self.store.peers()}
        start = text.lower()
        known = {
            origin
            for origin in [*self.graph.people.all(), *peers]
            if (len(start) >= _LEAST_DIGITS and origin.hex().startswith(start)) or peers.get(origin) == text
        }
        if len(known) == 1:
            return known.pop()
        with contextlib.suppress(ValueError):
            if len(raw := bytes.fromhex(text)) == 16:
                return raw
        if len(known) > 1:
            one, other, *_ = sorted(origin.hex()[:16] for origin in known)
            raise UsageError(
                f"{text!r} means several people, {one} and {other}",
                remedy="give more digits, or the device id",
            )
        raise UsageError(
            f"{text!r} is nobody that is known here",
            remedy="give what 'flocklet peers' prints for a linked peer, or what 'flocklet id' prints there",
        )

    # -- snapshot --

    def save(self) -> None:
        """Keep the graph beside the store if it changed."""
        if self.graph.generation == self._saved:
            return
        upto = max((number for number, _, _ in self.store.edge_pages(self._upto)), default=self._upto)
        scratch = self._folder / f".{_SNAPSHOT}.{secrets.token_hex(4)}"
        try:
            with scratch.open("xb") as file:
                np.savez(file, allow_pickle=False, upto=np.array([upto]), **self.graph.state())
            scratch.replace(self._folder / _SNAPSHOT)
        except OSError as error:
            raise StoreError(f"cannot keep the graph in {self._folder}: {error.strerror}") from error
        finally:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)
        self._upto, self._saved = upto, self.graph.generation

    def _load(self) -> int:
        """Read the snapshot and the pages after it; return the generation that needs no saving."""
        try:
            with (self._folder / _SNAPSHOT).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                self.graph.load_state({name: arrays[name] for name in arrays.files})
                self._upto = int(arrays["upto"][0])
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
            _log.warning("the graph in %s is not used (%s); it is built anew", self._folder, error)
            self.graph, self._upto = Graph(own=self._own()), 0
        saved = self.graph.generation
        friends = self.reached()
        for _, src, raw in self.store.edge_pages(self._upto):
            try:
                is_friend = not friends or src in friends
                self.graph.add(read_page(raw).edges, is_friend=is_friend)
            except WireError as error:
                _log.warning("a stored page of edges is left out: %s", error)
        return saved


def _digest(raw: bytes) -> bytes:
    return hashlib.blake2b(raw, digest_size=16).digest()
