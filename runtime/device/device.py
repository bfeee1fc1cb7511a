"""What one device knows and does on its own: documents, people, queries, clicks, and the model they teach.

The network is not here: `flocklet.node.node` puts a `Device` on it.

One owner: the thread that opens a `Device` is the only one that ever calls it. Its store refuses every other thread, and
nothing in here is locked. A running peer gives its device a thread of its own (`flocklet.node.owner`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.clock import Clock
from flocklet.device.asker import Asker
from flocklet.device.banishment import Banishment
from flocklet.device.clicks import Clicks
from flocklet.device.corpus import Library
from flocklet.device.devices import Devices
from flocklet.device.membership import Membership
from flocklet.device.quotas import quotas_of
from flocklet.device.ranker import Ranked, Ranker
from flocklet.device.recommender import Taste
from flocklet.device.rerankers import Lessons
from flocklet.device.results import PastClick, SearchResults
from flocklet.errors import SchemaMismatch, StoreError, UsageError
from flocklet.events.click import NO_CLICK, ClickEntry
from flocklet.events.click_log import ClickLog
from flocklet.events.item import Document
from flocklet.events.shares import Standing
from flocklet.identity.key import Identity
from flocklet.models.search.index.index import Index
from flocklet.models.search.ranking.grank import GRank, Settings
from flocklet.store.documents import StoredDocument
from flocklet.store.home import Home
from flocklet.store.store import Event, Person, Store

__all__ = ["CANDIDATES", "OWNER", "Device"]

_log = logging.getLogger("flocklet.device")

CANDIDATES = 100
SHOWN_MAX = 10
LIMIT_MAX = 100
PAGE_MAX = 1000
OWNER = "me"
LEAST_QUERIES = 10
_RERANKER = "reranker"
STRANGER = 0.1
"""How much a click of somebody counts whom trust does not reach, once there is trust."""


class Device:
    """The owner's documents and events in a store, with the search index and the ranking models over them.

    Raises:
        StoreError: from every method that reads or writes, when the store cannot be used.
    """

    def __init__(self, home: Home, membership: Membership, clock: Clock, *, check: bool = False) -> None:
        """Open the store of `home`; `check` looks for damage first."""
        self.home = home
        self.membership = membership
        self.clock = clock
        self.store = Store(home.database, check=check)
        self._people: dict[str, Identity] = {}
        self.library = Library(home, self.store, clock)
        self.asker = Asker(lambda: self.index, self.store, clock)
        self.quotas = quotas_of(self.store)
        self.log = ClickLog(self.quotas.limits)
        votes = Settings() if membership.flock.is_open else Settings.among_friends()
        self.ranker = Ranker(clock, votes, owner_trust=lambda: self._trust_of(self.identity_of(OWNER)))
        self.clicks = Clicks(self.store, self.log, self.ranker)
        self.devices = Devices(membership.roster, membership.identity, home.flock)
        self._taste: Taste | None = None
        self._regarded = -1
        self._taught = 0
        self._open: dict[bytes, Event] = {}  # origin -> what was shown last and not clicked
        self._voices: tuple[int, bytes, dict[bytes, float] | None] = (-1, b"", None)
        try:
            self.lessons = Lessons(self.store, clock, membership.identity)
            self.ranker.online = self.lessons.rankers
            self._restore_people()
            self.banishment = Banishment(self.store, self.clicks, lambda: self.taste)
            if self.store.count("clicks") > self.quotas.clicks:
                self.regard_friends()
            self.clicks.restore()
        except BaseException:
            self.store.close()
            raise

    def close(self) -> None:
        """Keep the index for a fast start and close the store."""
        try:
            self.save_index()
            if self._taste is not None:
                self._taste.save()
        except StoreError as error:  # the documents are safe; the index is built anew from them
            _log.warning("%s", error)
        finally:
            self.store.close()

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def grank(self) -> GRank:
        """The G-Rank model."""
        return self.ranker.grank

    @property
    def taste(self) -> Taste:
        """Trust, ratings and recommendations of the people here, read on first use."""
        if self._taste is None:
            identity = self.membership.identity
            self._taste = Taste(
                self.store, self.home.models, self.clock, identity, lambda: self._people, self.quotas.pages
            )
            self._taste.banish(self.banishment.origins)
        return self._taste

    # -- documents --

    @property
    def index(self) -> Index:
        """The search index over the documents."""
        return self.library.index

    def save_index(self) -> None:
        """Write the index snapshot if the documents changed since the last one."""
        self.library.save()

    def add_documents(self, documents: Sequence[tuple[Document, str | None]]) -> int:
        """Keep and index (document, path of its file) pairs; return how many were new or changed."""
        return self.library.add(
            [StoredDocument(d.item_id, d.key, d.title, d.text, at) for d, at in documents]
        )

    # -- people --

    def add_people(self, people: Mapping[str, bytes]) -> None:
        """Host more persons, name -> 32-byte seed; a name that is here keeps its key."""
        new = {name: Identity.from_seed(seed) for name, seed in people.items() if name not in self._people}
        self.store.add_people([Person(name, who.origin, who.seed) for name, who in new.items()])
        self.store.add_origins([(who.origin, who.public_key) for who in new.values()])
        for name, identity in new.items():
            self._people[name] = identity
            self.log.learn_key(identity.public_key, standing=Standing.OWN)

    def identity_of(self, person: str) -> Identity:
        """Return the identity of a hosted person; raise UsageError when nobody here has that name."""
        try:
            return self._people[person]
        except KeyError:
            raise UsageError(
                f"nobody called {person!r} is on this device", remedy="'flocklet people' lists who is"
            ) from None

    @property
    def people(self) -> list[str]:
        """The names of everybody hosted here, the owner (`me`) first."""
        return list(self._people)

    # -- queries and clicks --

    def search(
        self,
        query: str,
        *,
        person: str = OWNER,
        limit: int = SHOWN_MAX,
        page: int = 1,
        model: str = "posterior",
        is_explained: bool = False,
        is_folded: bool = True,
        is_private: bool = False,
    ) -> SearchResults:
        """Answer a query and keep what was shown; raise UsageError when it holds no word.

        `model` is one of `flocklet.device.ranker.MODELS`. Once a query has clicks, the posterior gives little-seen documents
        a chance below the first place; what was never clicked is shown in the order of the text. Documents that say the
        same are shown as one unless `is_folded` is off. What comes after the best hundred is in the order of the text.
        Of a private search nothing is kept: its query id is 0, no click can refer to it, nobody ever hears of it.
        """
        limit, page = max(1, min(limit, LIMIT_MAX)), max(1, min(page, PAGE_MAX))
        identity = self.identity_of(person)
        if not query.strip():
            raise UsageError("the query is empty", remedy="flocklet search WORDS...")
        question = self.asker.question(query)
        trust = self._trust_of(identity)
        self._restore_reranker()
        if not is_private:
            self._note_silence(identity)
        if question.has_words:
            rng = np.random.default_rng(self.ranker.posterior.impressions)
            ranked = self.ranker.rank(
                self.index, query, identity.origin, model=model, candidates=CANDIDATES,
                trust=trust, own=self.own(), rng=rng, asked=question.asked,
            )  # fmt: skip
            if limit * page * 2 > CANDIDATES:
                ranked = ranked.followed_by(
                    *self.index.candidates(query, limit * page * 2 + CANDIDATES, question.asked)
                )
            total = self.index.count(query, question.asked)
        else:
            ranked = Ranked.only(self.asker.without_words(question))
            total = len(ranked.ids)
        every = list(islice(self.asker.folded(ranked.ids.tolist(), is_folded=is_folded), limit * page))
        first = limit * (page - 1)
        items = [shown.document.item_id for shown in every]
        why: list[dict[str, Any] | None] = [None] * len(items)
        if is_explained:
            why[first:] = self.ranker.explain(self.index, query, items[first:], identity.origin, trust=trust)
        found = tuple(
            replace(self.asker.hit(shown, at + 1, question, *ranked.row(shown.place)), why=why[at])
            for at, shown in enumerate(every)
            if at >= first
        )
        now_s = self.clock.time()
        query_id = 0 if is_private else self.store.add_event(identity.origin, query, items, now_s)
        if page == 1 and not is_private:
            self._open[identity.origin] = Event(query_id, identity.origin, query, tuple(items), now_s)
        corrected = question.asked.corrected if question.asked is not None else ()
        return SearchResults(query_id, query, found, max(total, len(items)), page, corrected, question.note)

    def _note_silence(self, person: Identity) -> None:
        """Sign the person's last list as looked at and not clicked, if the person has clicked for that query before.

        So peers learn how often people looked, and no query is told to them that a click had not told already.
        """
        event = self._open.pop(person.origin, None)
        if event is None or not event.shown:
            return
        if self.ranker.posterior.has_clicked(person.origin, event.query):
            self.clicks.sign([(person, event, NO_CLICK)], None, self.clock.time)

    def teach(self) -> bool:
        """Fit the reranker anew if the clicks have grown by a fifth since the last time; return whether it was fitted.

        Takes seconds; a running peer calls it every few minutes. It stays BM25 unless the clicks justify more.
        """
        rates = self.ranker.rates()
        if len(rates) < max(LEAST_QUERIES, self._taught * 6 // 5):
            return False
        self._taught = len(rates)
        reranker = self.ranker.ready(self.index)
        reranker.teach(rates, np.random.default_rng(len(rates)))
        weights = reranker.weights.astype("<f4").tobytes() if reranker.is_active else b""
        self.store.set_meta(_RERANKER, weights)
        return True

    def _restore_reranker(self) -> None:
        """Take the weights of the last `teach`, if there are any."""
        kept = self.store.get_meta(_RERANKER)
        if not kept or self.ranker.reranker is not None:
            return
        try:
            weights = np.frombuffer(kept, "<f4").astype(np.float32)
            self.ranker.ready(self.index).load({"weights": weights})
        except (SchemaMismatch, ValueError) as error:
            _log.warning("the stored reranker is left out: %s", error)

    def practise(self, limit: int = 4) -> int:
        """Let the online rerankers learn from up to `limit` clicks of the people here; return how many were used.

        Takes some milliseconds a click; a running peer calls it every other second.
        """
        return self.lessons.practise(
            self.log, self.own(), lambda entry: self.ranker.impression(self.index, entry), limit
        )

    def trust_in(self, device_id: bytes) -> float:
        """Return how much the owner trusts a device, 1 as long as the owner trusts nobody."""
        trust = self._trust_of(self.identity_of(OWNER))
        return 1.0 if trust is None else trust(device_id[:16])

    def own(self) -> set[bytes]:
        """Return the origins of everybody hosted here."""
        return {identity.origin for identity in self._people.values()}

    def _trust_of(self, person: Identity) -> Callable[[bytes], float] | None:
        """Return how much a person lets the clicks of others count, None for all alike.

        As soon as the person trusts somebody (`flocklet trust`): 1 for people of this device, `TrustView.heard` for
        whom trust reaches, little for strangers (who together have one vote), nothing for whom the person distrusts.
        """
        if self.store.count("edge_pages") == 0:
            return None
        generation = self.taste.graph.generation
        if (generation, person.origin) != self._voices[:2]:
            view = self.taste.view(person)
            voices = view.heard() if view.has_trust else None
            self._voices = (generation, person.origin, voices)
        heard = self._voices[2]
        if heard is None:
            return None
        hosted = self.own()
        return lambda origin: 1.0 if origin in hosted else heard.get(origin, STRANGER)

    def rank(
        self,
        queries: Iterable[tuple[str, str]],
        *,
        limit: int,
        own_only: bool = False,
        model: str = "posterior",
    ) -> Iterator[NDArray[np.uint64]]:
        """Yield the item ids for (person, query) pairs, best first, without keeping an event or exploring.

        `own_only` ranks by the clicks of the people of this device alone: what the flock adds is the difference.
        """
        ranker = self.ranker
        if own_only:
            own = [e for who in self._people.values() for e in self.log.entries(who.origin)]
            ranker = self.ranker.only(own)
        for person, query in queries:
            identity = self.identity_of(person)
            yield ranker.rank(
                self.index,
                query,
                identity.origin,
                model=model,
                candidates=limit,
                trust=self._trust_of(identity) if model == "posterior" else None,
                own=self.own(),
            ).ids[:limit]

    def click(self, query_id: int, rank: int) -> ClickEntry:
        """Complete an event: the owner chose result `rank`; return the signed entry once it is stored.

        Raises:
            UsageError: there is no such query, or it did not show that many results.
        """
        event = self.store.event(query_id)
        if not 1 <= rank <= len(event.shown):
            raise UsageError(
                f"query {query_id} showed {len(event.shown)} results, there is no result {rank}",
                remedy=f"flocklet click {query_id} RANK",
            )
        person = next((p for p in self._people.values() if p.origin == event.origin), None)
        if person is None:
            raise UsageError(f"query {query_id} was asked by somebody who is no longer on this device")
        (entry,) = self.clicks.sign([(person, event, rank - 1)], query_id, self.clock.time)
        if self._open.get(person.origin, event).query_id == query_id:
            self._open.pop(person.origin, None)
        return entry

    def record(self, clicks: Iterable[PastClick]) -> int:
        """Sign and keep clicks of the past, in the order given; all or none; return how many."""
        rows = [
            (self.identity_of(c.person), Event(0, b"", c.query, c.shown, c.at_s), c.clicked) for c in clicks
        ]
        return len(self.clicks.sign(rows, None, self.clock.time))

    # -- restore --

    def _restore_people(self) -> None:
        """Read who is hosted here. The owner's key lives in the store: a store that was lost and made anew must
        not sign under sequence numbers that the lost one has used.
        """
        hosted = {person.name: person.seed for person in self.store.people()}
        if OWNER not in hosted:
            self.add_people({OWNER: Identity.generate().seed})
        for name, seed in sorted(hosted.items(), key=lambda item: item[0] != OWNER):
            self._people[name] = Identity.from_seed(seed)
            self.log.learn_key(self._people[name].public_key, standing=Standing.OWN)

    def vouch(self) -> None:
        """Sign that this device answers for its people who clicked: peers then know whose clicks go with the device."""
        for person in self._people.values():
            if next(self.log.entries(person.origin), None) is not None:
                self.taste.vouch(person)

    def regard_friends(self) -> None:
        """Tell the log whom trust reaches, if that changed: friends do not give way to strangers."""
        if self.store.count("edge_pages") == 0:
            return
        generation = self.taste.graph.trust_generation
        if generation != self._regarded:
            self._regarded = generation
            self.log.regard(self.taste.reached())

    def facts(self) -> dict[str, Any]:
        """Return what `status` shows of this device."""
        return {
            "documents": self.store.count("documents"),
            "people": len(self._people),
            "origins": len(self.log.origins),
            "events": self.store.count("events"),
            "clicks": len(self.log),
            "condemned": len(self.log.proofs),
            "deltas": self.store.count("deltas"),
            "edges": len(self.taste.graph),
            "database_bytes": self.home.database.stat().st_size,
            "reranker": self.lessons.facts(),
            "quotas": self.fill(),
        }

    def fill(self) -> dict[str, str]:
        """Return how full each quota is, as "used of limit"."""
        used = {
            "clicks": self.log.held_by(Standing.STRANGER),
            "all_clicks": len(self.log) - self.log.held_by(Standing.OWN),
            "people": self.log.strangers,
            "edge_pages": self.taste.pool.strangers,
            "deltas": self.store.count("deltas"),
            "peers": self.store.count("peers"),
        }
        return {name: f"{number} of {getattr(self.quotas, name)}" for name, number in used.items()}
