"""Who takes part in the demonstration: people with a history, what they ask, and what they loved later.

A *loved* film is one that its viewer rated 4 or 5. Each person's history is cut by time: the first 80 % teach, the
last 20 % are held out. Every loved film of the first part is a click: the query is one word by which a person may
look for that film (a genre, its year, a word of its title, drawn with the seed), the clicked result is the film.
A held-out query is drawn in the same way from a film that the person loved later; the right answers to it are all
held-out loved films that the query's word describes. Films that the person rated before are taken out of a ranking
before it is judged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from flocklet.datasets.installed import MovieLens
from flocklet.events.item import Document, item_id_of

__all__ = ["Film", "HeldOut", "Life", "Rating", "Scenario", "movielens_scenario", "synthetic_scenario"]

_LOVED = 4.0
_TAUGHT_SHARE = 0.8
_QUERY_KINDS = (0.5, 0.25, 0.25)  # genre, year, title word
_TITLE_STOP = frozenset(
    ["a", "an", "and", "at", "for", "from", "in", "is", "it", "of", "on", "the", "to", "with"]
)


@dataclass(frozen=True)
class Film:
    """One item of the catalogue; `tags` are its genres."""

    key: str
    title: str
    year: str
    tags: tuple[str, ...]

    @cached_property
    def item_id(self) -> int:
        """The id of its document."""
        return item_id_of(self.key)

    @property
    def document(self) -> Document:
        """What is indexed: the title, and year and genres as text."""
        return Document.of(self.key, self.title, " ".join((self.year, *self.tags)).strip())


@dataclass(frozen=True, slots=True)
class Rating:
    """One person's judgement of one film at one time (seconds)."""

    film: Film
    stars: float
    at_s: float


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A query of the future and the item ids that were right."""

    query: str
    right: frozenset[int]


@dataclass(frozen=True, slots=True)
class Life:
    """One person: clicks in time order as (query, item id, time), what was seen by then, and what came later."""

    name: str
    clicks: tuple[tuple[str, int, float], ...]
    seen: frozenset[int]
    later: tuple[HeldOut, ...]


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everybody and everything that takes part; `source` says where the data come from."""

    source: str
    is_synthetic: bool
    films: tuple[Film, ...]
    lives: tuple[Life, ...]

    def households(self, count: int, rng: np.random.Generator) -> list[list[Life]]:
        """Share the people among `count` devices at random, as evenly as can be."""
        order = rng.permutation(len(self.lives))
        return [[self.lives[i] for i in order[peer::count]] for peer in range(count)]


def movielens_scenario(data: MovieLens, rng: np.random.Generator, *, later_max: int = 5) -> Scenario:
    """Return the people of MovieLens with queries drawn from `rng`; of each, at most the last `later_max` queries."""
    films = {
        number: Film(film.document.key, film.title, film.year, film.genres)
        for number, film in data.film.items()
    }
    histories: dict[int, list[Rating]] = {}
    for person, number, stars, at_s in zip(
        data.users.tolist(), data.films.tolist(), data.ratings.tolist(), data.times.tolist(), strict=True
    ):
        histories.setdefault(person, []).append(Rating(films[number], stars, float(at_s)))
    lives = tuple(
        _life(f"person{person:03d}", histories[person], rng, later_max) for person in sorted(histories)
    )
    return Scenario("MovieLens 100K", False, tuple(films.values()), lives)


def _life(person: str, history: Sequence[Rating], rng: np.random.Generator, later_max: int) -> Life:
    """Cut one person's history, which is in the order of time."""
    cut = int(len(history) * _TAUGHT_SHARE)
    clicks = tuple(
        (_query(rating.film, rng), rating.film.item_id, rating.at_s)
        for rating in history[:cut]
        if rating.stars >= _LOVED
    )
    loved = [rating.film for rating in history[cut:] if rating.stars >= _LOVED]
    later = []
    for film in loved[-later_max:]:
        query = _query(film, rng)
        later.append(HeldOut(query, frozenset(other.item_id for other in loved if query in _words(other))))
    return Life(person, clicks, frozenset(rating.film.item_id for rating in history[:cut]), tuple(later))


def _words(film: Film) -> set[str]:
    return {*(tag.lower() for tag in film.tags), film.year, *_title_words(film)}


def _title_words(film: Film) -> list[str]:
    return [word for word in re.findall(r"[a-z0-9]+", film.title.lower()) if word not in _TITLE_STOP]


def _query(film: Film, rng: np.random.Generator) -> str:
    kind = rng.choice(3, p=_QUERY_KINDS)
    words = _title_words(film)
    if kind == 1 and film.year:
        return film.year
    if (kind == 2 or not film.tags) and words:
        return words[rng.integers(len(words))]
    return film.tags[rng.integers(len(film.tags))].lower() if film.tags else film.title.lower()


def synthetic_scenario(rng: np.random.Generator, *, people: int = 240, later_max: int = 5) -> Scenario:
    """Return made-up people over a catalogue of the thesis' shape: 256 items, 39 tags, 3 tags an item.

    Each person prefers a few tags, each item has a quality of its own; a person loves what fits both. This is for
    machines that cannot fetch MovieLens; what is learnt from it says nothing about real people.
    """
    tags = [f"tag{number:02d}" for number in range(39)]
    picks = [rng.choice(39, size=3, replace=False) for _ in range(256)]
    films = tuple(
        Film(f"synthetic:{n}", f"Release {n}", "", tuple(tags[t] for t in pick))
        for n, pick in enumerate(picks)
    )
    fits = np.zeros((256, 39))
    for number, pick in enumerate(picks):
        fits[number, pick] = 1.0
    quality = rng.normal(size=256)
    lives = []
    for number in range(people):
        liking = fits @ rng.normal(size=39) + quality + 0.5 * rng.normal(size=256)
        chosen = rng.choice(256, size=80, replace=False)
        stars = np.where(liking[chosen] > np.quantile(liking, 0.55), 5.0, 2.0)
        history = [
            Rating(films[item], float(star), float(step))
            for step, (item, star) in enumerate(zip(chosen.tolist(), stars.tolist(), strict=True))
        ]
        lives.append(_life(f"person{number:03d}", history, rng, later_max))
    return Scenario("made-up people (thesis-shaped generator)", True, films, tuple(lives))
