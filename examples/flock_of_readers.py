"""A flock of reading households: real peer processes, people with tastes, and what gossip adds to each.

The people are made up (thesis-shaped generator); 'flocklet demo' does the same with 943 real ones.
Run it: python examples/flock_of_readers.py [PEERS]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from flocklet.demo.flock import everywhere, running_flock, wait_until
from flocklet.demo.judge import DEPTH, figures, questions
from flocklet.demo.people import synthetic_scenario
from flocklet.identity.flock import Flock


def main(count: int) -> None:
    rng = np.random.default_rng(7)
    readers = synthetic_scenario(rng, people=30 * count)
    households = readers.households(count, rng)
    books = [(d.key, d.title, d.text) for d in (film.document for film in readers.films)]

    with tempfile.TemporaryDirectory() as name, running_flock(Path(name), count, Flock.generate()) as peers:
        # Each household has the catalogue, its own people with keys of their own, and what they clicked so far.
        def move_in(number, peer):
            lives = households[number]
            peer.ask("add_documents", {"documents": books})
            peer.ask("people", {"people": {life.name: rng.bytes(32) for life in lives}})
            clicks = [
                (life.name, query, (item,), 0, at_s) for life in lives for query, item, at_s in life.clicks
            ]
            return peer.ask("record", {"clicks": clicks})["recorded"]

        for peer in peers:
            peer.ask("gossip", {"every_s": 0})
        total = sum(everywhere(peers, move_in))
        print(f"{len(readers.lives)} readers in {count} households clicked {total} times")

        # What would each reader be shown for the queries that led to books they loved later?
        def rank(number, peer, own_only):
            packed = peer.ask(
                "rank", {"queries": questions(households[number]), "limit": DEPTH, "own_only": own_only}
            )
            return [np.frombuffer(ids, ">u8").tolist() for ids in packed]

        lives = [life for household in households for life in household]
        alone = figures(lives, sum(everywhere(peers, lambda n, p: rank(n, p, True)), []))

        begun_s = time.monotonic()
        for peer in peers:
            peer.ask("gossip", {"every_s": 0.1})
        wait_until(lambda: all(peer.ask("status")["clicks"] >= total for peer in peers), 60)
        seconds = time.monotonic() - begun_s
        flock = figures(lives, sum(everywhere(peers, lambda n, p: rank(n, p, False)), []))
        sent = sum(peer.ask("status")["bytes_out"] for peer in peers)

    print(f"every household holds every click after {seconds:.1f} s and {sent / 1e6:.2f} MB")
    print(f"nDCG@10 alone {alone.mean:.4f}, after gossip {flock.mean:.4f}")
    print(f"{np.mean(flock.per_person > alone.per_person):.0%} of the readers gained, "
          f"{np.mean(flock.per_person < alone.per_person):.0%} lost")  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4)
