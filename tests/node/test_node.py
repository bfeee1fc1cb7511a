"""Peers that really run: they find each other, exchange clicks, refuse strangers, and lose nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flocklet import Node, NodeSettings
from flocklet.clock import SystemClock
from flocklet.device.click_feed import ClickFeed
from flocklet.device.device import Device
from flocklet.device.membership import create_membership, load_membership
from flocklet.errors import ConfigError, LinkError
from flocklet.events.click_sync import ClickAnswer
from flocklet.events.feed import Steps
from flocklet.identity.flock import Flock
from flocklet.node import control
from flocklet.store.home import Home
from flocklet.wire.schema import Message

LOOPBACK = "127.0.0.1"
FLOCK = Flock.generate()  # so that test runs side by side do not meet
NOTES = {
    "tent": "drive the pegs of the tent in at an angle",
    "soup": "a soup of onions for the tent",
    "knot": "a bowline",
}


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    for name, text in NOTES.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


@contextlib.asynccontextmanager
async def peer(
    home: Path, *, flock: Flock = FLOCK, to: Node | None = None, **options: Any
) -> AsyncIterator[Node]:
    if not (home / "key.pem").exists():
        await asyncio.to_thread(create_membership, Home(home), flock=flock)
    settings: dict[str, Any] = {"interfaces": (LOOPBACK,), "is_mdns_on": False, "gossip_s": 0.0}
    if to is not None:
        settings["peers"] = (f"{LOOPBACK}:{to.port}",)
    async with Node(home, NodeSettings(**{**settings, **options})) as node:
        yield node


async def until(is_true: Callable[[], bool], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not is_true():
            await asyncio.sleep(0.01)


async def linked(*nodes: Node) -> None:
    await until(lambda: all(len(node.endpoint.links) == len(nodes) - 1 for node in nodes))


async def test_a_click_here_puts_a_result_first_there(tmp_path: Path, notes: Path) -> None:
    async with peer(tmp_path / "a") as a, peer(tmp_path / "b", to=a) as b:
        await linked(a, b)
        for node in (a, b):
            assert (await node.add([notes])).added == 3
        results = await a.search("tent")
        last = results.found[-1]
        before = await b.search("tent")
        assert before.found[0].item_id != last.item_id
        await a.click(results.query_id, last.rank)
        assert await b.pull() == 1
        after = await b.search("tent")
        assert after.found[0].item_id == last.item_id
        assert after.found[0].votes > 0
        assert await b.pull() == 0, "nothing is taken twice"


async def test_the_same_file_elsewhere_is_the_same_item(tmp_path: Path, notes: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "tent.txt").write_text(NOTES["tent"])
    async with peer(tmp_path / "a") as a, peer(tmp_path / "b") as b:
        await a.add([notes])
        await b.add([elsewhere])
        first = (await a.search("pegs")).found[0].item_id
        assert (await b.search("pegs")).found[0].item_id == first


async def test_peers_meet_by_mdns_and_gossip_on_their_own(tmp_path: Path, notes: Path) -> None:
    options: dict[str, Any] = {"is_mdns_on": True, "gossip_s": 0.05}
    async with (
        peer(tmp_path / "a", **options) as a,
        peer(tmp_path / "b", **options) as b,
        peer(tmp_path / "c", **options) as c,
    ):
        await linked(a, b, c)
        await a.add([notes])
        results = await a.search("bowline")
        await a.click(results.query_id, 1)
        await until(lambda: len(b.device.log) == 1 and len(c.device.log) == 1)
        ours = [row for row in a.peers() if not row.is_foreign]  # other flocks may be on this machine too
        assert {row.liveness for row in ours} == {"alive"}
        assert {source for row in ours for source in row.sources} >= {"mdns"}


async def test_clicks_reach_a_peer_of_a_peer(tmp_path: Path, notes: Path) -> None:
    async with peer(tmp_path / "a") as a, peer(tmp_path / "b", to=a) as b:
        await linked(a, b)
        await a.add([notes])
        await a.click((await a.search("onions")).query_id, 1)
        await b.pull()
    async with peer(tmp_path / "b") as b, peer(tmp_path / "c", to=b) as c:
        await linked(b, c)
        assert await c.pull() == 1, "the entry is signed by its person, so anybody may pass it on"


async def test_another_flock_is_refused_on_both_sides(tmp_path: Path) -> None:
    async with (
        peer(tmp_path / "a") as a,
        peer(tmp_path / "x", flock=Flock.closed(b"x" * 16), to=a) as stranger,
    ):
        await until(lambda: bool(a.refusals) and bool(stranger.refusals))
        assert {row["reason"] for row in [*a.refusals, *stranger.refusals]} == {"flock"}
        assert not a.endpoint.links
        assert not stranger.endpoint.links
        await until(
            lambda: "flock" in stranger.peers()[0].problem
        )  # the dialler notes it after the refusal is told


async def test_the_open_flock_takes_anybody_but_not_members_of_a_closed_one(tmp_path: Path) -> None:
    async with (
        peer(tmp_path / "a", flock=Flock.open()) as a,
        peer(tmp_path / "b", flock=Flock.open(), to=a) as b,
        peer(tmp_path / "x", to=a) as stranger,
    ):
        await linked(a, b)
        await until(lambda: bool(stranger.refusals))
        assert len(a.endpoint.links) == 1


@pytest.mark.parametrize("is_mdns_on", [False, True])
async def test_a_cloned_device_is_reported_by_both(tmp_path: Path, is_mdns_on: bool) -> None:
    await asyncio.to_thread(create_membership, Home(tmp_path / "a"), flock=FLOCK)
    (tmp_path / "b").mkdir()
    for name in ("key.pem", "cert.pem", "flock", "key.machine"):
        if (tmp_path / "a" / name).exists():
            (tmp_path / "b" / name).write_bytes((tmp_path / "a" / name).read_bytes())
            (tmp_path / "b" / name).chmod(0o600)
    async with (
        peer(tmp_path / "a", is_mdns_on=is_mdns_on) as a,
        peer(tmp_path / "b", is_mdns_on=is_mdns_on, to=None if is_mdns_on else a) as b,
    ):
        await until(lambda: bool(a.refusals) and bool(b.refusals))
        assert {row["reason"] for row in [*a.refusals, *b.refusals]} == {"clone"}


async def test_a_second_peer_in_one_home_is_refused(tmp_path: Path) -> None:
    async with peer(tmp_path / "a"):
        with pytest.raises(ConfigError, match="another flocklet process is using"):
            async with peer(tmp_path / "a"):
                pass


async def test_a_port_in_use_is_one_clear_error(tmp_path: Path) -> None:
    async with peer(tmp_path / "a") as a:
        with pytest.raises(LinkError, match="port") as caught:
            async with peer(tmp_path / "b", port=a.port):
                pass
        assert "\n" not in str(caught.value)
        async with peer(tmp_path / "b"):
            pass


async def test_the_control_socket_answers_this_user_only(tmp_path: Path, notes: Path) -> None:
    home = Home(tmp_path / "a")
    async with peer(home.path) as a:
        assert home.socket.stat().st_mode & 0o777 == 0o600
        answer = await asyncio.to_thread(control.ask, home, "add", {"paths": [str(notes)]})
        assert answer["added"] == 3
        status = await asyncio.to_thread(control.ask, home, "status", {})
        assert (status["pid"], status["documents"]) == (os.getpid(), 3)
        with pytest.raises(control.RemoteError, match="does not know the verb") as caught:
            await asyncio.to_thread(control.ask, home, "fly", {})
        assert caught.value.exit_code == 2
        assert not a.endpoint.links
    assert not home.socket.exists()


@pytest.mark.parametrize(
    "name", [b"lat\xe9.txt", b"\xff\xfe.txt", b"a\x80\xed\xa0\x80.txt", "pin\u00f5.txt".encode()]
)
async def test_a_file_whose_name_is_no_text_crosses_the_control_socket(tmp_path: Path, name: bytes) -> None:
    home, path = Home(tmp_path / "a"), tmp_path / os.fsdecode(name)
    try:
        path.write_text("a tent")
    except OSError:
        pytest.skip("this file system takes names of UTF-8 only")
    async with peer(home.path):
        answer = await asyncio.to_thread(control.ask, home, "add", {"paths": [str(path)]})
        assert answer["added"] == 1
        assert (await asyncio.to_thread(control.ask, home, "status", {}))["documents"] == 1


SEARCH = {"limit": 10, "model": "posterior"}


@pytest.mark.parametrize("text", ["t\ud800", "\udcff", "\udfff\ud800", "ok \udc80"])
@pytest.mark.parametrize(("verb", "field"), [("search", "query"), ("rate", "item")])
async def test_text_that_no_file_can_hold_is_answered_or_refused_and_the_peer_goes_on(
    tmp_path: Path, verb: str, field: str, text: str
) -> None:
    home = Home(tmp_path / "a")
    async with peer(home.path):
        given = {field: text, "person": "me", "stars": 5.0, **SEARCH}
        try:
            await asyncio.to_thread(control.ask, home, verb, given)
        except control.RemoteError as error:
            assert error.exit_code == 2 and "\n" not in str(error), str(error)
        assert "pid" in await asyncio.to_thread(control.ask, home, "status", {})


async def test_what_was_pulled_survives_a_restart(tmp_path: Path, notes: Path) -> None:
    async with peer(tmp_path / "a") as a, peer(tmp_path / "b", to=a) as b:
        await linked(a, b)
        await a.add([notes])
        await a.click((await a.search("tent")).query_id, 2)
        assert await b.pull() == 1
        remembered = b.port
    async with peer(tmp_path / "b") as b:
        assert remembered
        assert len(b.device.log) == 1
        assert (await b.status()).deltas == 1
        assert (await b.perform("peers", {}))[0]["sources"] == ["remembered"]


async def test_a_lost_store_never_signs_under_used_numbers(tmp_path: Path, notes: Path) -> None:
    """Else the peers would hold two entries with one number, which condemns the person."""
    async with peer(tmp_path / "a") as a, peer(tmp_path / "b", to=a) as b:
        await linked(a, b)
        await a.add([notes])
        await a.click((await a.search("tent")).query_id, 1)
        assert await b.pull() == 1
    for file in (tmp_path / "a").glob("state.db*"):
        file.unlink()
    async with peer(tmp_path / "a") as a, peer(tmp_path / "b", to=a) as b:
        await linked(a, b)
        await a.add([notes])
        await a.click((await a.search("tent")).query_id, 2)
        assert await b.pull() == 1
        assert not b.device.log.proofs
        assert await a.pull() == 1, "the old click comes back from the peer"


async def test_a_wrong_signature_is_refused_and_counted(tmp_path: Path, notes: Path) -> None:
    async with peer(tmp_path / "a") as a, peer(tmp_path / "b", to=a) as b:
        await linked(a, b)
        await a.add([notes])
        await a.click((await a.search("tent")).query_id, 1)
        feed = next(feed for feed in a.gossip.feeds if isinstance(feed, ClickFeed))
        honest = feed.answer

        def forged(request: Message, peer: bytes) -> Steps[Message]:
            answer = yield from honest(request, peer)
            return replace(answer, s=bytes(len(answer.s))) if isinstance(answer, ClickAnswer) else answer

        feed.answer = forged  # type: ignore[method-assign]
        assert await b.pull() == 0
        assert b.gossip.counts["rejected signature"] == 1
        assert len(b.device.log) == 0
        feed.answer = honest  # type: ignore[method-assign]
        assert await b.pull() == 1


def start(home: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flocklet", "--home", str(home), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_ends_cleanly_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path / "a", "up", "--interface", LOOPBACK, "--no-mdns")
    assert process.stdout is not None
    assert "in a closed flock, port" in process.stdout.readline()
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out.strip(), err) == (0, "stopped", "")
    assert not Home(tmp_path / "a").socket.exists()


def test_a_killed_peer_keeps_every_acknowledged_click(tmp_path: Path, notes: Path) -> None:
    home = Home(tmp_path / "a")
    process = start(home.path, "up", "--interface", LOOPBACK, "--no-mdns")
    assert process.stdout is not None
    process.stdout.readline()
    control.ask(home, "add", {"paths": [str(notes)]})
    for _ in range(5):
        query_id = control.ask(home, "search", {"query": "tent", "person": "me", "limit": 10})["query_id"]
        control.ask(home, "click", {"query_id": query_id, "rank": 1})
    process.kill()
    process.communicate(timeout=10)
    assert home.socket.exists(), "the control: it was really killed"
    with Device(home, load_membership(home), SystemClock(), check=True) as device:
        assert len(device.log) == 5
        assert len(device.index) == 3
    done = start(home.path, "search", "tent", "--json")
    done.communicate(timeout=10)
    assert done.returncode == 0, "verbs work beside the dead socket"


async def test_a_closed_flock_trusts_similar_people_more_than_an_open_one(tmp_path: Path) -> None:
    async with peer(tmp_path / "a") as closed, peer(tmp_path / "b", flock=Flock.open()) as open_to_all:
        assert closed.device.grank.settings.isolation < open_to_all.device.grank.settings.isolation
        assert closed.device.grank.settings.one_vote
        assert open_to_all.device.grank.settings.one_vote
