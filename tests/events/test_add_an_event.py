"""docs/add-an-event.md, done: one file and one line, and two running peers replicate a new kind of record."""

from __future__ import annotations

import asyncio
import re
import secrets
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flocklet import Node, NodeSettings
from flocklet.device.feeds import FEEDS
from flocklet.device.membership import create_membership
from flocklet.errors import WireError
from flocklet.events.feed import exchange, finish
from flocklet.events.record import Record, read_record, sign_record
from flocklet.events.record_set import RecordAnswer, RecordFeed, RecordQuestion
from flocklet.identity.flock import Flock
from flocklet.identity.key import Identity
from flocklet.store.home import Home
from flocklet.store.store import Store

PAGE = Path(__file__).parents[2] / "docs" / "add-an-event.md"
ANNA, BERT, EVE = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
SALT = partial(secrets.token_bytes, 8)


def note_feed() -> type[RecordFeed]:
    """Return the class that the page shows, run from the page itself."""
    code = re.search(r"## 1\..*?```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {"__name__": "note_feed"}
    exec(code[1], names)
    found = names["NoteFeed"]
    assert issubclass(found, RecordFeed)
    return found


NoteFeed = note_feed()


def note(who: Identity, text: str) -> Record:
    return sign_record(who, "notes", text.encode())


class Memory:
    """A shelf without a disk."""

    def __init__(self) -> None:
        self.held: dict[bytes, bytes] = {}

    def records(self, feed: str) -> list[bytes]:
        return list(self.held.values())

    def change_records(self, feed: str, put: Any, remove: Any) -> None:
        self.held.update(put)
        for id in remove:
            self.held.pop(id, None)


def notes(*texts: str, who: Identity = ANNA, **options: Any) -> RecordFeed:
    feed = NoteFeed(Memory(), SALT, **options)
    for text in texts:
        feed.add(note(who, text))
    return feed


def texts(feed: RecordFeed) -> set[str]:
    return {record.body.decode() for record in feed}


async def test_two_running_peers_replicate_a_kind_that_was_added_by_one_line(tmp_path: Path) -> None:
    flock = Flock.generate()
    feeds = (*FEEDS, lambda device: NoteFeed(device.store, SALT, is_own=lambda who: who in device.own()))
    quiet = NodeSettings(is_mdns_on=False, interfaces=("127.0.0.1",), gossip_s=0)
    for name in "abc":
        await asyncio.to_thread(create_membership, Home(tmp_path / name), flock=flock)
    async with Node(tmp_path / "a", quiet, feeds=feeds) as a:
        to_a = NodeSettings(
            is_mdns_on=False, interfaces=("127.0.0.1",), gossip_s=0, peers=(f"127.0.0.1:{a.port}",)
        )
        async with (
            Node(tmp_path / "b", to_a, feeds=feeds) as b,
            Node(tmp_path / "c", to_a) as old,
        ):
            async with asyncio.timeout(10):
                while len(a.endpoint.links) < 2 or not b.endpoint.links or not old.endpoint.links:
                    await asyncio.sleep(0.01)
            (mine,) = [feed for feed in a.gossip.feeds if feed.name == "notes"]
            (theirs,) = [feed for feed in b.gossip.feeds if feed.name == "notes"]
            await a.owner.run(mine.add, note(a.device.identity_of("me"), "the tent is in the shed"))
            assert await b.pull() == 1
            assert texts(theirs) == {"the tent is in the shed"}
            assert await b.pull() == 0, "nothing twice"
            for _ in range(3):  # a peer that did not announce the kind is not asked, and nobody is refused
                await a.gossip.pull(next(iter(a.endpoint.links.values())))
                await a.gossip.pull(a.endpoint.links[old.membership.identity.device_id])
            assert a.gossip.counts["broken"] == 0
            assert not [
                name for name in (*a.gossip.counts, *old.gossip.counts) if name.startswith("rejected")
            ]

    def restart() -> set[str]:
        with Store(tmp_path / "b" / "state.db") as store:
            return texts(NoteFeed(store, SALT))

    assert await asyncio.to_thread(restart) == {"the tent is in the shed"}


def test_sets_agree_after_pulling_from_each_other_and_send_nothing_twice() -> None:
    one = notes(*(f"note {n}" for n in range(60)), most_of_author=200)
    two = notes(*(f"note {n}" for n in range(40, 60)), *(f"other {n}" for n in range(30)), most_of_author=200)
    for author in range(4, 20):
        one.add(note(Identity.from_seed(bytes([author]) * 32), "hello"))
    first = exchange(two, one)
    assert first.new == 40 + 16
    assert exchange(one, two).new == 30
    assert texts(one) == texts(two)
    assert exchange(one, two).new == exchange(two, one).new == 0


def test_a_record_of_another_feed_or_author_is_a_forgery() -> None:
    record = sign_record(ANNA, "notes", b"hi")
    assert read_record(record.raw, "notes") == record
    with pytest.raises(WireError, match="signature"):
        read_record(record.raw, "rumours")
    with pytest.raises(WireError, match="signature"):
        read_record(EVE.public_key + record.raw[32:], "notes")
    for at in range(len(record.raw)):
        changed = bytearray(record.raw)
        changed[at] ^= 1
        with pytest.raises(WireError):
            read_record(bytes(changed), "notes")


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"\x1b[2J", b"x" * 281])
def test_what_check_refuses_is_not_taken_and_what_was_sound_before_it_is(body: bytes) -> None:
    feed, memory = notes(), Memory()
    feed._shelf = memory
    turn = feed.start(b"peer", 1)
    feed.request(turn)
    turn.pending, turn.rounds = 1, 1
    good = note(ANNA, "hi")
    answer = feed.kinds[3](0, (good.raw, sign_record(EVE, "notes", body).raw))  # type: ignore[call-arg]
    with pytest.raises(WireError):
        finish(feed.absorb(turn, answer))
    feed.save(turn)
    assert texts(feed) == {"hi"}
    assert memory.held.keys() == {good.id}


def test_answers_of_the_wrong_stage_and_questions_of_another_feed_are_refused() -> None:
    feed = notes("a")
    turn = feed.start(b"peer", 1)
    with pytest.raises(WireError, match="something else"):
        finish(feed.absorb(turn, RecordAnswer(0, ())))
    with pytest.raises(WireError, match="asks for no notes"):
        finish(feed.answer(RecordAnswer(0, ()), b"peer"))
    assert isinstance(feed.kinds[2](1, bytes(8), b""), RecordQuestion)  # type: ignore[call-arg]


def test_one_author_has_a_share_and_strangers_give_way_first() -> None:
    friends = {BERT.origin}
    feed = notes(
        "mine",
        is_own=lambda who: who == ANNA.origin,
        is_friend=lambda who: who in friends,
        most_of_author=20,
        most=30,
    )
    exchange(feed, notes(*(f"b{n}" for n in range(15)), who=BERT))
    flood = exchange(feed, notes(*(f"e{n}" for n in range(60)), who=EVE))
    assert flood.new == 14 and flood.outcomes["evicted"] > 0
    assert len(feed) == 30
    authors = [record.author for record in feed]
    assert authors.count(ANNA.origin) == 1 and authors.count(BERT.origin) == 15
    before = texts(feed)
    assert exchange(feed, notes(*(f"e{n}" for n in range(60)), who=EVE)).new == 0
    assert texts(feed) == before, "what gave way does not come back"


def test_one_author_has_so_many_records() -> None:
    feed = notes(most_of_author=20)
    flood = exchange(feed, notes(*(f"e{n}" for n in range(60)), who=EVE))
    assert flood.new == len(feed) == 20
    assert flood.outcomes["full"] > 0
    with pytest.raises(WireError, match="no room"):
        feed.add(note(EVE, "one more"))


def test_without_shares_a_stranger_pushes_out_friends() -> None:
    """The control of the test above."""
    feed = notes(*(f"b{n}" for n in range(15)), who=BERT, most_of_author=1_000, most=30)
    exchange(feed, notes(*(f"e{n}" for n in range(14)), who=EVE))
    for n in range(10):
        exchange(feed, notes(f"s{n}", who=Identity.from_seed(bytes([50 + n]) * 32)))
    assert sum(record.author == BERT.origin for record in feed) < 15
