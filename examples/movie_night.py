"""Ten households, each with some MovieLens people: what is recommended before they meet, and after each meeting.

Everything is as on real devices (signed pages, the exchange, the bounded graph), only the network is left out.
Run it: python examples/movie_night.py      (MovieLens 100K, 2.1 MB, is fetched once; without it people are made up)
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import platformdirs

from flocklet.clock import SystemClock
from flocklet.datasets.installed import fetch_movielens
from flocklet.device.edge_feed import EdgeFeed
from flocklet.device.recommender import Taste
from flocklet.errors import FlockletError
from flocklet.events.feed import exchange
from flocklet.identity.key import Identity
from flocklet.store.store import Store

HOUSEHOLDS, LATER = 10, 0.2


class Household:
    """A device with the people who live there."""

    def __init__(self, folder: Path, people: list[int], rng: np.random.Generator) -> None:
        folder.mkdir()
        self.people = {f"person {p}": Identity.from_seed(rng.bytes(32)) for p in people}
        self.device = Identity.from_seed(rng.bytes(32))
        self.store = Store(folder / "state.db")
        self.taste = Taste(self.store, folder, SystemClock(), self.device, lambda: self.people)
        self.feed = EdgeFeed(self.taste, rng)

    def meet(self, other: Household) -> int:
        """Ask until the other has nothing new; return how many opinions came."""
        total = 0
        while new := exchange(self.feed, other.feed).new:
            total += new
        return total


def main() -> None:
    rng = np.random.default_rng(7)
    films, ratings = catalogue(rng)
    # Of everybody's films rated 4 or 5, the last fifth is kept back: would they be recommended?
    past, later = [], {}
    for person in {p for p, *_ in ratings}:
        mine = [row for row in ratings if row[0] == person]
        cut = int((1 - LATER) * len(mine))
        past += mine[:cut]
        later[person] = {film for _, film, stars, _ in mine[cut:] if stars >= 4}

    with tempfile.TemporaryDirectory() as name:
        order = rng.permutation(sorted(later))
        households = [
            Household(Path(name) / str(n), order[n::HOUSEHOLDS].tolist(), rng) for n in range(HOUSEHOLDS)
        ]
        for home in households:
            home.taste.record(
                (home.people[f"person {p}"], film, stars, at_s)
                for p, film, stars, at_s in past
                if f"person {p}" in home.people
            )
        first, guest = households[0], next(iter(households[0].people))
        print(f"{len(later)} people in {HOUSEHOLDS} households, {len(past)} ratings")
        print(f"alone:           {judge(first, later)}")
        for number, other in enumerate(households[1:], 1):
            news = first.meet(other)
            if number in (1, 3, 9):
                met = f"after {number} meeting{'s' * (number > 1)}"
                print(f"{met}: {judge(first, later)}   ({news} new opinions)")

        print(f"\nFor {guest} of the first household, and through whom:")
        view = first.taste.view(first.people[guest])
        view.fit(choose=False)
        for row in view.recommend(3, explain=True):
            print(f"  {films[row.item_id]}: because of {' / '.join(films[i] for i in row.because)};")
            print(f"    people {', '.join(origin.hex()[:8] for origin in row.through)}")
        for home in households:
            home.store.close()


def judge(home: Household, later: dict[int, set[int]]) -> str:
    """Share of the people here for whom one of ten recommended films is one that they loved later."""
    hits, found = [], []
    view = None
    for name, who in home.people.items():
        right = later[int(name.split()[1])]
        if not right:
            continue
        if view is None:  # nobody has said whom they trust: everybody here sees the same likes
            view = home.taste.view(who)
            view.fit(choose=False)
        top = [row.item_id for row in view.seen_by(who.origin).recommend(10)]
        hits.append(bool(right & set(top)))
        found.append(len(right & set(top)))
    return f"{np.mean(hits):.0%} find a film they love among ten, {np.mean(found):.2f} films each"


def catalogue(rng: np.random.Generator) -> tuple[dict[int, str], list[tuple[int, int, float, int]]]:
    """Return titles and (person, film, stars, time) rows, in the order of time."""
    try:
        data = fetch_movielens(Path(platformdirs.user_cache_dir("flocklet", appauthor=False)))
    except FlockletError as error:
        print(f"({error}; the people below are made up)")
        tastes = rng.normal(size=(300, 6)) @ rng.normal(size=(6, 200)) + rng.normal(size=(300, 200))
        rows = [(p, int(f), 5.0 if tastes[p, f] > 0.5 else 2.0, n)
                for p in range(300) for n, f in enumerate(rng.choice(200, 50, replace=False))]  # fmt: skip
        return {film: f"film {film}" for film in range(200)}, rows
    titles = {number: film.title for number, film in data.film.items()}
    columns = (data.users.tolist(), data.films.tolist(), data.ratings.tolist(), data.times.tolist())
    return titles, list(zip(*columns, strict=True))


if __name__ == "__main__":
    main()
