"""What a peer's clicks do to a device: taken, given way, condemned; in the log, the models and the store alike."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flocklet.clock import VirtualClock
from flocklet.device.click_feed import ClickFeed
from flocklet.device.commands import perform
from flocklet.device.device import Device
from flocklet.device.membership import create_membership, has_membership, load_membership
from flocklet.device.results import PastClick
from flocklet.errors import UsageError
from flocklet.events.click import ClickEntry
from flocklet.events.click_outcome import Proof
from flocklet.events.feed import exchange
from flocklet.events.item import Document
from flocklet.identity.key import Identity
from flocklet.models.base import State
from flocklet.store.home import Home
from flocklet.store.store import Store

DOCUMENTS = [(Document.of(f"d{n}", "", f"tent pegs number {n}"), None) for n in range(10)]
IDS = [document.item_id for document, _ in DOCUMENTS]


@contextlib.contextmanager
def opened(folder: Path, quotas: dict[str, int] | None = None) -> Iterator[Device]:
    home = Home(folder)
    home.ensure()
    membership = load_membership(home) if has_membership(home) else create_membership(home)
    if quotas:
        with Store(home.database) as store:
            for name, value in quotas.items():
                store.set_meta(f"quota {name}", value)
    with Device(home, membership, VirtualClock(1.8e9)) as device:
        if not len(device.index):
            device.add_documents(DOCUMENTS)
        yield device


def feed_of(device: Device) -> ClickFeed:
    return ClickFeed(device.clicks, device.clock, device.regard_friends)


def clicks(device: Device, count: int, person: str = "me") -> None:
    device.record(PastClick(person, f"tent {n % 5}", tuple(IDS), n % 10, 1.7e9) for n in range(count))


def pull(into: Device, peer: Device) -> int:
    return exchange(feed_of(into), feed_of(peer), peer=peer.membership.identity.device_id).new


def state(device: Device) -> tuple[State, State]:
    return device.grank.state(), device.ranker.posterior.state()


def assert_same(one: tuple[State, State], other: tuple[State, State]) -> None:
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        for name in left:
            assert np.array_equal(left[name], right[name]), name


def assert_models_log_and_store_agree(device: Device, tmp_path: Path) -> None:
    """The models are as if nothing but the log had ever been learnt, and the store holds exactly the log."""
    held = [entry for origin in device.log.origins for entry in device.log.entries(origin)]
    assert {(row.origin, row.seq) for row in device.store.clicks()} == {(e.origin, e.seq) for e in held}
    other = device.ranker.only(held)
    assert_same(state(device), (other.grank.state(), other.posterior.state()))


def test_what_gives_way_leaves_models_and_store(tmp_path: Path) -> None:
    with opened(tmp_path / "a") as a, opened(tmp_path / "b", {"clicks": 12}) as b:
        clicks(b, 5)
        clicks(a, 40)
        assert pull(b, a) == 40
        assert len(b.log) == 5 + 12
        assert_models_log_and_store_agree(b, tmp_path)
        before = state(b)
    with opened(tmp_path / "b", {"clicks": 12}) as b:
        assert len(b.log) == 17, "nothing comes back at a start"
        assert_same(state(b), before)


def test_a_smaller_quota_holds_from_the_next_start_on_disk_too(tmp_path: Path) -> None:
    with opened(tmp_path / "a") as a, opened(tmp_path / "b") as b:
        clicks(b, 5)
        clicks(a, 40)
        assert pull(b, a) == 40
    with opened(tmp_path / "b", {"clicks": 12}) as b:
        assert len(b.log) == 17
        assert_models_log_and_store_agree(b, tmp_path)


def test_the_owners_clicks_never_give_way(tmp_path: Path) -> None:
    limits = {"clicks_of_author": 3, "clicks": 4, "all_clicks": 6}
    with opened(tmp_path / "a") as a, opened(tmp_path / "b", limits) as b:
        clicks(b, 20)
        clicks(a, 40)
        pull(b, a)
        me = b.identity_of("me").origin
        assert len(list(b.log.entries(me))) == 20
        assert len(b.log) == 20, "there is no room for anybody else"
        assert_models_log_and_store_agree(b, tmp_path)
    with opened(tmp_path / "b", limits) as b:
        assert len(list(b.log.entries(me))) == 20


def test_a_friends_clicks_stay_while_strangers_give_way(tmp_path: Path) -> None:
    limits = {"clicks": 10, "all_clicks": 1_000}
    with (
        opened(tmp_path / "a") as friend,
        opened(tmp_path / "c") as stranger,
        opened(tmp_path / "b", limits) as b,
    ):
        clicks(friend, 8)
        clicks(stranger, 30)
        b.taste.trust(b.identity_of("me"), friend.identity_of("me").origin, 1.0)
        assert pull(b, friend) == 8
        pull(b, stranger)
        held = {device: len(list(b.log.entries(d.identity_of("me").origin))) for device, d in
                (("friend", friend), ("stranger", stranger))}  # fmt: skip
        assert held == {"friend": 8, "stranger": 10}
        assert_models_log_and_store_agree(b, tmp_path)


def two_faced(device: Device, seq: int) -> ClickEntry:
    who = device.identity_of("me")
    return ClickEntry.signed(who, seq=seq, query="other", shown=tuple(IDS), clicked=9, ts=0)


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_condemned_person_is_unlearnt_everywhere(tmp_path: Path, is_restarted: bool) -> None:
    with opened(tmp_path / "a") as a, opened(tmp_path / "c") as c, opened(tmp_path / "b") as b:
        clicks(b, 5)
        clicks(a, 12)
        without = state(b)
        assert pull(b, a) == 12
        a_key = a.identity_of("me").public_key
        real = next(entry for entry in a.log.entries(a.identity_of("me").origin) if entry.seq == 3)
        c.log.condemn(Proof(a_key, real.encode(), two_faced(a, 3).encode()))
        pull(b, c)
        assert b.log.is_condemned(a.identity_of("me").origin)
        if not is_restarted:
            assert_same(state(b), without)
            assert_models_log_and_store_agree(b, tmp_path)
    if is_restarted:
        with opened(tmp_path / "b") as b:
            assert_same(state(b), without)
            assert len(b.log) == 5


def test_a_click_is_taken_whatever_its_authors_clock_says(tmp_path: Path) -> None:
    with opened(tmp_path / "a") as a, opened(tmp_path / "b") as b:
        for number, at_s in enumerate((0.0, 1.8e9 + 3 * 86_400, 4.2e9)):
            a.record([PastClick("me", f"tent {number}", tuple(IDS), 1, at_s)])
        assert pull(b, a) == 3


def test_many_made_up_persons_leave_honest_ones_and_the_newcomer_is_heard(tmp_path: Path) -> None:
    """Attack row 4 by the product: 160 made-up persons through one peer; before, 60 of 2,000 honest clicks were left."""
    limits = {"clicks": 120, "all_clicks": 200, "people": 80, "people_of_device": 70}
    with (
        opened(tmp_path / "m") as mallory,
        opened(tmp_path / "h") as honest,
        opened(tmp_path / "n") as newcomer,
        opened(tmp_path / "b", limits) as b,
    ):
        clicks(b, 10)
        clicks(honest, 20)
        assert pull(b, honest) == 20
        mallory.add_people({f"p{n}": Identity.from_seed(bytes([7, n]) + bytes(30)).seed for n in range(160)})
        for n in range(160):
            clicks(mallory, 2, f"p{n}")
        pull(b, mallory)
        clicks(newcomer, 5)
        assert pull(b, newcomer) == 5
        for device, count in ((honest, 20), (newcomer, 5), (b, 10)):
            assert len(list(b.log.entries(device.identity_of("me").origin))) == count
        assert_models_log_and_store_agree(b, tmp_path)


def test_quotas_are_set_shown_and_hold_from_the_next_start(tmp_path: Path) -> None:
    with opened(tmp_path / "a") as a, opened(tmp_path / "b") as b:
        clicks(a, 40)
        pull(b, a)
        assert b.facts()["quotas"]["clicks"] == "40 of 120000"
        assert perform(b, "quota", {"name": "clicks", "value": 16})["clicks"]["value"] == 16
        for wrong in (
            {"name": "nothing", "value": 99},
            {"name": "clicks", "value": 3},
            {"name": "clicks", "value": -1},
        ):
            with pytest.raises(UsageError):
                perform(b, "quota", wrong)
    with opened(tmp_path / "b") as b:
        assert b.facts()["quotas"]["clicks"] == "16 of 16"
        assert perform(b, "quota", {"name": "clicks", "value": None})["clicks"]["value"] == 120_000


def test_notes_of_deltas_and_remembered_peers_are_bounded(tmp_path: Path) -> None:
    with opened(tmp_path / "a") as a:
        for number in range(200):
            a.store.add_delta(number.to_bytes(16, "big"), b"p" * 32, 10, float(number), most=64)
            a.store.remember_peer(number.to_bytes(32, "big"), "", [("192.0.2.1", 1)], float(number), most=32)
            if number == 3:
                a.store.ban_peer(number.to_bytes(32, "big"), ("signature", 600.0), 3.0)
        assert a.store.count("deltas") <= 64
        held = {int.from_bytes(peer.device_id, "big") for peer in a.store.peers()}
        assert held == {3, *range(169, 200)}, "the newest, and a ban is not washed off by newcomers"
