"""The main job on real data with real peers, from the first process to the last figure."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from flocklet.demo.flock import PeerProcess, everywhere, running_flock, wait_until
from flocklet.demo.judge import DEPTH, Figures, bm25_rankings, figures, popularity_rankings, questions
from flocklet.demo.people import Life, Scenario
from flocklet.demo.strangers import send_garbage, try_wrong_secret
from flocklet.errors import LinkError
from flocklet.identity.flock import Flock
from flocklet.models.search.evaluation.metrics import paired_randomisation_test

__all__ = ["Narrator", "Outcome", "play"]

_LATE_CLICKS = 40  # of each household, kept back for the time in which one peer is dead
_GOSSIP_S = 0.3
_MEET_S = 30.0
_SETTLE_S = 120.0
_QUESTIONS_AT_ONCE = 200


class Narrator(Protocol):
    """Whoever tells the story while it happens."""

    def remark(self, text: str) -> None:
        """Say one line."""
        ...

    def progress(self, label: str) -> AbstractContextManager[Any]:
        """Show a bar; the context gives a function (done, total, note)."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demonstration showed; `figures` is nDCG@10 per method, `p_value` of flock against alone."""

    data: str
    is_synthetic: bool
    people: int
    clicks: int
    peers: int
    pairs_found: int
    pairs_s: float
    figures: dict[str, Figures]
    p_value: float
    bytes_sent: int
    settle_s: float
    recovered: bool
    recover_s: float
    strangers_refused: int
    wall_s: float

    def document(self) -> dict[str, Any]:
        """Return the JSON document of `flocklet demo --json`."""
        return {
            "data": self.data,
            "synthetic": self.is_synthetic,
            "people": self.people,
            "clicks": self.clicks,
            "peers": self.peers,
            "pairs_found": self.pairs_found,
            "pairs_s": round(self.pairs_s, 3),
            "ndcg@10": {name: round(figure.mean, 4) for name, figure in self.figures.items()},
            "p_flock_vs_alone": self.p_value,
            "bytes": self.bytes_sent,
            "settle_s": round(self.settle_s, 2),
            "recovered": self.recovered,
            "recover_s": round(self.recover_s, 2),
            "strangers_refused": self.strangers_refused,
            "wall_s": round(self.wall_s, 1),
        }


class _Household:
    """The people on one peer, and which of their clicks come now and which while a peer is dead."""

    def __init__(self, lives: Sequence[Life]) -> None:
        self.lives = list(lives)
        timeline = sorted(
            ((at_s, life.name, query, item) for life in lives for query, item, at_s in life.clicks),
            key=lambda click: click[:2],
        )
        rows = [(person, query, (item,), 0, at_s) for at_s, person, query, item in timeline]
        self.now, self.late = rows[:-_LATE_CLICKS], rows[-_LATE_CLICKS:]


def play(scenario: Scenario, peer_count: int, seed: int, narrator: Narrator) -> Outcome:
    """Run the whole demonstration and return its figures; every process is stopped in the end.

    Raises:
        LinkError: the peers do not start, do not meet or do not settle on this machine.
    """
    begun_s = time.monotonic()
    rng = np.random.default_rng(seed)
    households = [_Household(lives) for lives in scenario.households(peer_count, rng)]
    seeds = {life.name: rng.bytes(32) for life in scenario.lives}
    flock = Flock.generate()
    with tempfile.TemporaryDirectory(prefix="flocklet-demo-") as name:
        folder = Path(name)
        narrator.remark(
            f"starting {peer_count} peer processes: own keys, one flock, mDNS on the loopback interface"
        )
        with running_flock(folder, peer_count, flock, ("--gossip-s", "0")) as peers:
            pairs_s = _meet(peers, narrator)
            pairs = _pairs(peers)
            _feed(peers, households, scenario, seeds, narrator)
            shown = {
                "popularity": _plain(scenario, households, is_popular=True),
                "bm25": _plain(scenario, households, is_popular=False),
                "grank_alone": _ask(peers, households, narrator, own_only=True),
            }
            total = sum(len(household.now) for household in households)
            settle_s = _gossip(peers, total, narrator)
            shown["grank_flock"] = _ask(peers, households, narrator, own_only=False)
            recover_s = _kill_and_return(peers, households, total, narrator)
            strangers = _strangers(folder, peers[0], rng, narrator)
            sent = sum(everywhere(peers, lambda _, peer: int(peer.ask("status")["bytes_out"])))
        narrator.remark("all peers stopped")
    alone, together = shown["grank_alone"].per_person, shown["grank_flock"].per_person
    return Outcome(
        scenario.source,
        scenario.is_synthetic,
        len(scenario.lives),
        total,
        peer_count,
        pairs,
        pairs_s,
        shown,
        paired_randomisation_test(together, alone, np.random.default_rng(seed)),
        sent,
        settle_s,
        recover_s >= 0,
        recover_s,
        strangers,
        time.monotonic() - begun_s,
    )


def _pairs(peers: Sequence[PeerProcess]) -> int:
    return sum(everywhere(peers, lambda _, peer: int(peer.ask("status")["links"])))


def _meet(peers: Sequence[PeerProcess], narrator: Narrator) -> float:
    """Wait until every peer has a link with every other; return the seconds since the last one started."""
    wanted = len(peers) * (len(peers) - 1)
    with narrator.progress("peers meet") as step:

        def all_met() -> bool:
            found = _pairs(peers)
            step(found, wanted)
            return found >= wanted

        met = wait_until(all_met, _MEET_S)
    seconds = time.monotonic() - max(peer.started_s for peer in peers)
    if not met and _pairs(peers) == 0:
        raise LinkError("the peers do not find each other on the loopback interface")
    narrator.remark(
        f"{_pairs(peers)} of {wanted} pairs linked, {seconds:.1f} s after the last process was started"
    )
    return seconds


def _feed(
    peers: Sequence[PeerProcess],
    households: Sequence[_Household],
    scenario: Scenario,
    seeds: dict[str, bytes],
    narrator: Narrator,
) -> None:
    """Give every peer the catalogue, its people with their keys, and their clicks in the order of time."""
    documents = [(d.key, d.title, d.text) for d in (film.document for film in scenario.films)]
    total = sum(len(household.now) for household in households)
    done = 0
    with narrator.progress("people click") as step:

        def feed(number: int, peer: PeerProcess) -> None:
            nonlocal done
            household = households[number]
            peer.ask("add_documents", {"documents": documents})
            peer.ask("people", {"people": {life.name: seeds[life.name] for life in household.lives}})
            for start in range(0, len(household.now), 1000):
                part = household.now[start : start + 1000]
                done += peer.ask("record", {"clicks": part})["recorded"]
                step(done, total)

        everywhere(peers, feed)
    narrator.remark(
        f"{len(scenario.films)} items on every peer; {len(seeds)} people on {len(peers)} peers signed {total} clicks"
    )


def _plain(scenario: Scenario, households: Sequence[_Household], *, is_popular: bool) -> Figures:
    lives = [life for household in households for life in household.lives]
    if not is_popular:
        return figures(lives, bm25_rankings(lives, scenario.films))
    clicks = [
        (query, shown[0], at_s) for household in households for _, query, shown, _, at_s in household.now
    ]
    return figures(lives, popularity_rankings(lives, scenario.films, clicks))


def _ask(
    peers: Sequence[PeerProcess], households: Sequence[_Household], narrator: Narrator, *, own_only: bool
) -> Figures:
    """Let every peer answer the held-out queries of its own people."""
    total = sum(len(questions(household.lives)) for household in households)
    done = 0
    with narrator.progress("alone" if own_only else "together") as step:

        def answer(number: int, peer: PeerProcess) -> list[list[int]]:
            nonlocal done
            asked = questions(households[number].lives)
            rankings: list[list[int]] = []
            for start in range(0, len(asked), _QUESTIONS_AT_ONCE):
                part = asked[start : start + _QUESTIONS_AT_ONCE]
                packed = peer.ask(
                    "rank", {"queries": part, "limit": DEPTH, "own_only": own_only, "model": "grank"}
                )
                rankings += [np.frombuffer(ids, ">u8").tolist() for ids in packed]
                done += len(part)
                step(done, total)
            return rankings

        answers = everywhere(peers, answer)
    lives = [life for household in households for life in household.lives]
    result = figures(lives, [ranking for rankings in answers for ranking in rankings])
    who = "alone" if own_only else "after gossip"
    narrator.remark(f"nDCG@10 of {total} held-out queries, G-Rank {who}: {result.mean:.4f}")
    return result


def _gossip(peers: Sequence[PeerProcess], total: int, narrator: Narrator) -> float:
    """Let the peers pull until everybody holds every click; return the seconds it took."""
    begun_s = time.monotonic()
    everywhere(peers, lambda _, peer: peer.ask("gossip", {"every_s": _GOSSIP_S}))
    with narrator.progress("gossip") as step:

        def all_settled() -> bool:
            held = everywhere(peers, lambda _, peer: int(peer.ask("status")["clicks"]))
            step(sum(held), total * len(peers), f"nobody below {min(held)} of {total}")
            return min(held) >= total

        if not wait_until(all_settled, _SETTLE_S, every_s=0.25):
            raise LinkError(f"the peers did not exchange all clicks within {_SETTLE_S:.0f} s")
    seconds = time.monotonic() - begun_s
    narrator.remark(f"every peer holds all {total} clicks after {seconds:.1f} s of gossip")
    return seconds


def _kill_and_return(
    peers: Sequence[PeerProcess], households: Sequence[_Household], total: int, narrator: Narrator
) -> float:
    """Kill one peer, let the others go on, bring it back; return the seconds until it caught up, -1 if it did not."""
    victim = peers[-1]
    victim.kill()
    late = sum(
        everywhere(
            peers[:-1],
            lambda number, peer: int(peer.ask("record", {"clicks": households[number].late})["recorded"]),
        )
    )
    victim.start()
    victim.wait_ready()
    victim.ask("gossip", {"every_s": _GOSSIP_S})
    begun_s = victim.started_s
    caught_up = wait_until(lambda: int(victim.ask("status")["clicks"]) >= total + late, _SETTLE_S)
    seconds = time.monotonic() - begun_s
    if not caught_up:
        narrator.remark("the killed peer did NOT catch up")
        return -1.0
    narrator.remark(
        f"one peer was killed (SIGKILL), missed {late} clicks, came back and held them {seconds:.1f} s later"
    )
    return seconds


def _strangers(folder: Path, victim: PeerProcess, rng: np.random.Generator, narrator: Narrator) -> int:
    port = int(victim.ask("status")["port"])
    wrong = try_wrong_secret(folder / "stranger", victim, port)
    narrator.remark(
        f"a device with the wrong secret: {'refused, with a reason on both sides' if wrong else 'NOT refused'}"
    )
    garbage = send_garbage(victim, port, rng)
    narrator.remark(
        f"somebody who sends garbage: {'refused, the flock goes on' if garbage else 'NOT refused'}"
    )
    return int(wrong) + int(garbage)
