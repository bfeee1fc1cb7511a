"""Simulate the network of the G-Rank thesis: who clicks what, who asks whom, what each peer then shows.

Protocol (Gold & Pouwelse, arXiv 2301.12530, IV): 100 peers; 256 items with 3
of 39 one-word tags = 39 queries; each peer holds 10 % of the items, has asked each query once and clicked a
random matching item, and has got a random 10 % of everybody's entries. Then 10,000 ticks: one random peer
asks one random query, clicks the top of what its G-Rank shows, and asks one random peer it knows for
everything not yet shared. A peer is known by an entry of it, or because it asked.

Two things the thesis leaves open were fitted to the reference curve, both are fields of `Config`: how
skewed the tags are (`tag_skew`: chance of a tag proportional to 1/rank^0.5), and how much of the history
from before the run a peer hands on after it was told (`relays` = 8 %; what is clicked during the run, own
history and the first sample are always handed on). With `relays` = 1 the network converges three times as
fast as the published one.

Measured every 100 ticks, over honest peers and queries:
- `distance`: sum over the query's items of |position in the own click counts - position in all clicks| (the
thesis' metric; ties: lowest item), `top_held`: share whose own counts have the right head;
- `shown_distance`, `shown_top1`: the same for the ranking that is displayed;
- `captured`: share of honest peers that display an attacked item at the head of its attacked query.
"All clicks" leaves out the attack itself. Pure, seeded, vectorised: `simulate(Config(), seed)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Catalogue", "Config", "Entries", "Measure", "Simulation", "make_catalogue", "simulate"]

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
SHOWN = 10
Attack = Literal["none", "targeted", "coordinated", "inflation", "epic"]


@dataclass(frozen=True, slots=True)
class Config:
    """Set one run; the defaults are the thesis' baseline with F = 0.

    `one_vote` caps every (peer, query, item) at one click; flocklet's default mode is that with `isolation`
    1. The last four fields are audit switches: what the published notebook does differently from its
    thesis. The fifth deviation, evaluating raw counts, is `Measure.distance`; `Measure.shown_distance` is
    the evaluation without it.
    """

    peers: int = 100
    items: int = 256
    tags: int = 39
    tags_per_item: int = 3
    tag_skew: float = 0.5
    ticks: int = 10_000
    measure_every: int = 100
    held: float = 0.1
    bootstrap: float = 0.1
    isolation: float = 0.0
    one_vote: bool = False
    noise: float = 0.0
    top_terms: int = 10
    gossip: Literal["pull", "push"] = "pull"
    relays: float = 0.08
    attack: Attack = "none"
    sybils: int = 10
    clicks_per_sybil: int = 100
    joins: int = 2_500
    acts: int = 5_000
    squares_terms: bool = False
    drops_isolation: bool = False
    aligns_by_row: bool = False
    notebook_attack: bool = False


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Hold items with titles, artists and tags, and the (query, item) tuples that match, grouped by query."""

    titles: tuple[str, ...]
    artists: tuple[str, ...]
    tags: tuple[str, ...]
    tag_of: Bools
    query: Ints
    item: Ints
    starts: Ints

    def tuples(self, query: int) -> slice:
        """Return where the tuples of one query are."""
        return slice(int(self.starts[query]), int(self.starts[query + 1]))


@dataclass(slots=True)
class Entries:
    """Hold every entry of the network: author, tuple, place in the author's own order, whether it is an
    attack."""

    author: Ints
    pair: Ints
    seq: Ints
    shown: Ints  # (n, 10) items, -1 where fewer match
    is_attack: Bools
    size: int = 0


@dataclass(frozen=True, slots=True)
class Measure:
    """Hold the metrics of one moment; `sent` = mean entries per exchange since the last one."""

    tick: int
    distance: float
    top_held: float
    shown_distance: float
    shown_top1: float
    captured: float
    sent: float


def make_catalogue(
    rng: np.random.Generator, items: int = 256, tags: int = 39, tags_per_item: int = 3, skew: float = 0.0
) -> Catalogue:
    """Return a catalogue of the thesis' shape: different tags per item, every tag at least once.

    Tags are drawn with probability proportional to 1/rank^skew; the original's frequencies are unknown, 0
    is uniform.
    """
    chance = 1.0 / np.arange(1, tags + 1) ** skew
    tag_of = np.zeros((items, tags), dtype=bool)
    for number in range(items):
        tag_of[number, rng.choice(tags, size=tags_per_item, replace=False, p=chance / chance.sum())] = True
    for tag in np.flatnonzero(~tag_of.any(axis=0)):
        common = int(tag_of.sum(axis=0).argmax())
        chosen = int(rng.choice(np.flatnonzero(tag_of[:, common])))
        tag_of[chosen, common], tag_of[chosen, tag] = False, True
    query, item = np.nonzero(tag_of.T)
    starts = np.concatenate([[0], np.cumsum(tag_of.sum(axis=0))])
    artists = rng.integers(items // 4, size=items)
    return Catalogue(
        titles=tuple(f"song {number}" for number in range(items)),
        artists=tuple(f"artist {number}" for number in artists),
        tags=tuple(f"tag{number:02d}" for number in range(tags)),
        tag_of=tag_of,
        query=query.astype(np.int64),
        item=item.astype(np.int64),
        starts=starts.astype(np.int64),
    )


Watch = Callable[["Simulation", int, int], None]
"""Look at an exchange before it happens: (run, source, sink)."""


@dataclass(slots=True)
class Simulation:
    """Hold the state of one run; `simulate` drives it."""

    config: Config
    catalogue: Catalogue
    rng: np.random.Generator
    entries: Entries
    known: Bools  # [peer, entry]
    shares: Bools  # [peer, entry]: what the peer hands on
    clicks: NDArray[np.uint8]  # [viewer, author, tuple]
    asked: NDArray[np.int16]  # [viewer, author, query]
    top: Bools  # [viewer, author, query]: among the author's top terms
    stale: Bools  # [viewer, author]: `top` is older than `asked`
    matches: Ints  # [viewer, author]: kappa_m
    pairs: Ints  # [viewer, author]: distinct tuples
    popularity: Ints  # [viewer, tuple]
    has_item: Bools  # [viewer, item]: its metadata are known
    contacts: Bools  # [viewer, peer]
    present: int
    total: int
    global_clicks: Ints
    targets: list[tuple[int, int]] = field(default_factory=list)
    measures: list[Measure] = field(default_factory=list)
    watch: Watch | None = None

    @classmethod
    def start(cls, config: Config, seed: int) -> Simulation:
        """Return the network at tick 0."""
        rng = np.random.default_rng(seed)
        catalogue = make_catalogue(rng, config.items, config.tags, config.tags_per_item, config.tag_skew)
        sybils = 0 if config.attack == "none" else config.sybils
        total, pairs = config.peers + sybils, len(catalogue.query)
        per_sybil = config.clicks_per_sybil + config.tags
        room = config.peers * config.tags + config.ticks + sybils * per_sybil
        empty = Entries(
            author=np.zeros(room, dtype=np.int64),
            pair=np.zeros(room, dtype=np.int64),
            seq=np.zeros(room, dtype=np.int64),
            shown=np.full((room, SHOWN), -1, dtype=np.int64),
            is_attack=np.zeros(room, dtype=bool),
        )
        self = cls(
            config=config,
            catalogue=catalogue,
            rng=rng,
            entries=empty,
            known=np.zeros((total, room), dtype=bool),
            shares=np.zeros((total, room), dtype=bool),
            clicks=np.zeros((total, total, pairs), dtype=np.uint8),
            asked=np.zeros((total, total, config.tags), dtype=np.int16),
            top=np.zeros((total, total, config.tags), dtype=bool),
            stale=np.zeros((total, total), dtype=bool),
            matches=np.zeros((total, total), dtype=np.int64),
            pairs=np.zeros((total, total), dtype=np.int64),
            popularity=np.zeros((total, pairs), dtype=np.int64),
            has_item=rng.random((total, config.items)) < config.held,
            contacts=np.zeros((total, total), dtype=bool),
            present=config.peers,
            total=total,
            global_clicks=np.zeros(pairs, dtype=np.int64),
        )
        for peer in range(config.peers):
            self.first_clicks(peer)
        for peer in range(config.peers):
            self.learn(peer, np.flatnonzero(rng.random(empty.size) < config.bootstrap))
        self.shares[:] = self.known
        return self

    def first_clicks(self, peer: int) -> None:
        """Ask every query once and click a random matching item."""
        for query in range(self.config.tags):
            span = self.catalogue.tuples(query)
            self.click(peer, self.rng.permutation(np.arange(span.start, span.stop)), 0)

    def click(self, author: int, ranked: Ints, rank: int, is_attack: bool = False) -> None:
        """Write one entry: `ranked` tuples of a query were shown, the one at `rank` was clicked.

        Its author knows it at once.
        """
        pair = int(ranked[rank])
        shown = self.catalogue.item[ranked[: SHOWN if rank < SHOWN else SHOWN - 1]]
        number, entries = self.entries.size, self.entries
        entries.author[number], entries.pair[number], entries.is_attack[number] = author, pair, is_attack
        entries.seq[number] = self.asked[author, author].sum() + 1
        entries.shown[number, : len(shown)] = shown
        if rank >= SHOWN:  # an attacker scrolls down to what it clicks
            entries.shown[number, SHOWN - 1] = self.catalogue.item[pair]
        entries.size += 1
        if not is_attack:
            self.global_clicks[pair] += 1
        self.shares[author, number] = True
        self.learn(author, np.array([number]))

    def learn(self, viewer: int, numbers: Ints) -> None:
        """Let `viewer` take in the entries it does not have yet."""
        numbers = numbers[~self.known[viewer, numbers]]
        if not len(numbers):
            return
        self.known[viewer, numbers] = True
        if len(numbers) == 1:
            self._learn_one(viewer, int(self.entries.author[numbers[0]]), int(self.entries.pair[numbers[0]]))
            return
        author, pair = self.entries.author[numbers], self.entries.pair[numbers]
        query = self.catalogue.query[pair]
        counts = self.clicks[viewer]
        cells = np.unique(author * counts.shape[1] + pair)
        fresh_author, fresh_pair = np.divmod(cells, counts.shape[1])
        is_fresh = counts[fresh_author, fresh_pair] == 0
        fresh_author, fresh_pair = fresh_author[is_fresh], fresh_pair[is_fresh]
        np.add.at(counts, (author, pair), 1)
        np.add.at(self.popularity[viewer], pair, 1)
        np.add.at(self.pairs[viewer], fresh_author, 1)
        own = fresh_pair[fresh_author == viewer]
        if len(own):
            self.matches[viewer] += (counts[:, own] > 0).sum(axis=1)
        others = fresh_author != viewer
        shared = counts[viewer, fresh_pair[others]] > 0
        np.add.at(self.matches[viewer], fresh_author[others][shared], 1)
        np.add.at(self.asked[viewer], (author, query), 1)
        self.stale[viewer, author] = True
        self.has_item[viewer, self.catalogue.item[pair]] = True
        self.contacts[viewer, author] = True

    def _learn_one(self, viewer: int, author: int, pair: int) -> None:
        """Do what `learn` does for one entry, in scalars: own clicks are half of all calls."""
        query = self.catalogue.query[pair]
        counts = self.clicks[viewer]
        is_fresh = counts[author, pair] == 0
        counts[author, pair] += 1
        self.popularity[viewer, pair] += 1
        if is_fresh:
            self.pairs[viewer, author] += 1
            if author == viewer:
                self.matches[viewer] += counts[:, pair] > 0
            elif counts[viewer, pair]:
                self.matches[viewer, author] += 1
        self.asked[viewer, author, query] += 1
        self.stale[viewer, author] = True
        self.has_item[viewer, self.catalogue.item[pair]] = True
        self.contacts[viewer, author] = True

    def _rank_terms(self, viewer: int) -> None:
        authors = np.flatnonzero(self.stale[viewer])
        if not len(authors):
            return
        self.stale[viewer] = False
        asked = self.asked[viewer, authors].astype(np.int64)
        key = asked * 1_024 - np.arange(asked.shape[1])  # ties: the first term
        size = min(self.config.top_terms, asked.shape[1])
        best = np.argpartition(-key, size - 1, axis=1)[:, :size]
        top = np.zeros_like(asked, dtype=bool)
        np.put_along_axis(top, best, True, axis=1)
        self.top[viewer, authors] = top & (asked > 0)

    def weights(self, viewer: int) -> Floats:
        """Return S + F of everybody as `viewer` sees it, (peers,) float64."""
        config = self.config
        self._rank_terms(viewer)
        matches = self.matches[viewer].astype(np.float64)
        matches[viewer] = 0.0
        union = self.pairs[viewer, viewer] + self.pairs[viewer] - matches
        terms = (self.top[viewer] & self.top[viewer, viewer]).sum(axis=1)
        counted = matches + terms**2 if config.squares_terms else terms + matches**2
        raw = np.where(matches > 0, counted / np.maximum(union, 1), 0.0)
        raw[viewer] = max(1.0, float(raw.max()))
        return np.asarray(raw / raw.max() + (0.0 if config.drops_isolation else config.isolation))

    def scores(self, viewer: int, span: slice) -> Floats:
        """Return the scores of the tuples in `span` for `viewer`, (n,) float64."""
        votes = self.clicks[viewer, :, span]
        votes = np.minimum(votes, 1) if self.config.one_vote else votes
        weights = self.weights(viewer)
        if self.config.aligns_by_row:
            rows = np.arange(votes.shape[1]) % len(weights)
            return np.asarray(votes.sum(axis=0) * weights[rows])
        return np.asarray(np.round(weights @ votes, 9))

    def ask(self, peer: int) -> None:
        """Let a peer ask a random query, click the head of the list, and exchange entries with one other
        peer."""
        query = int(self.rng.integers(self.config.tags))
        span = self.catalogue.tuples(query)
        scores = self.scores(peer, span)
        scores[~self.has_item[peer, self.catalogue.item[span]]] = -1.0  # not even its title is known
        order = np.argsort(-scores, kind="stable")
        if self.rng.random() < self.config.noise and len(order) > 1:
            first, second = self.rng.choice(len(order), size=2, replace=False)
            order[[first, second]] = order[[second, first]]
        self.click(peer, span.start + order, 0)

    def partner(self, peer: int) -> int:
        """Return a random peer that `peer` knows; itself when it knows none."""
        contacts = self.contacts[peer].copy()
        contacts[peer] = False
        contacts[self.present :] = False
        found = np.flatnonzero(contacts)
        return int(self.rng.choice(found)) if len(found) else peer

    def exchange(self, peer: int, is_attacked: bool = False) -> int:
        """Pull (or push) everything not yet shared with one partner; return the number of entries sent."""
        partner = self.partner(peer)
        source, sink = (partner, peer) if self.config.gossip == "pull" else (peer, partner)
        self.contacts[partner, peer] = True
        if is_attacked and self.config.notebook_attack and sink % 2 == 0:
            return 0  # the notebook's accepting=False
        size = self.entries.size
        if self.watch is not None:
            self.watch(self, source, sink)
        news = np.flatnonzero(self.shares[source, :size] & ~self.known[sink, :size])
        self.learn(sink, news)
        is_old = news < self.config.peers * self.config.tags
        self.shares[sink, news] = ~is_old | (self.rng.random(len(news)) < self.config.relays)
        return len(news)


def simulate(config: Config, seed: int, watch: Watch | None = None) -> Simulation:
    """Run the protocol; `measures` of the result has one row every `measure_every` ticks."""
    from studies.thesis_attacks import act, join
    from studies.thesis_measure import measure

    run = Simulation.start(config, seed)
    run.watch = watch
    run.measures.append(measure(run, 0, 0.0))
    sent = 0
    for tick in range(1, config.ticks + 1):
        if tick == config.joins and run.total > run.present:
            join(run)
        if tick == config.acts and run.total > config.peers:
            act(run)
        attacked = bool(run.targets)
        peer = int(run.rng.integers(config.peers if attacked else run.present))
        run.ask(peer)
        sent += run.exchange(peer, attacked)
        if tick % config.measure_every == 0:
            run.measures.append(measure(run, tick, sent / config.measure_every))
            sent = 0
    return run
