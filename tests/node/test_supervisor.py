"""No background task dies silently: an exception at any await of any task is shown, and the peer works on."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flocklet.clock import SystemClock, VirtualClock
from flocklet.device.membership import create_membership
from flocklet.identity.flock import Flock
from flocklet.link.bans import Ban, Guard
from flocklet.node.node import Node, NodeSettings
from flocklet.node.supervisor import Supervisor
from flocklet.store.home import Home


class Boom(RuntimeError):
    """What nobody expects."""


async def failing(times: list[int]) -> None:
    times.append(1)
    raise Boom("here")


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_kept_task_begins_again_ever_later_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, times = VirtualClock(), list[int]()
    supervisor = Supervisor(clock, np.random.default_rng(1))
    supervisor.keep("tick", lambda: failing(times))
    await turns()
    assert (len(times), supervisor.rows()[0]["state"]) == (1, "restarting")
    assert "Boom" in supervisor.problems()[0]
    for _ in range(40):
        await clock.advance(1.0)
        await turns()
    assert 5 <= len(times) <= 7  # after about 1, 3, 7, 15, 31 s
    assert supervisor.rows()[0]["restarts"] == len(times)
    assert sum("tick failed" in record.message for record in caplog.records) == 1
    assert list(supervisor.failures.values()) == [len(times)]
    await supervisor.stop()


async def test_a_task_of_a_peer_is_not_begun_again() -> None:
    supervisor, times = Supervisor(VirtualClock(), np.random.default_rng(1)), list[int]()
    supervisor.spawn("serve 1a", failing(times))
    await turns()
    assert len(times) == 1
    assert "Boom" in supervisor.problems()[0]
    await supervisor.stop()


@types.coroutine
def thrown_at(work: Coroutine[Any, Any, None], number: int, fired: list[str]) -> Generator[Any, Any, None]:
    """Drive a coroutine and throw into it at its await number `number`."""
    value: Any = None
    error: BaseException | None = None
    for count in range(1, 1 << 30):
        try:
            waiting = work.send(value) if error is None else work.throw(error)
            if count == number:
                fired.append("fired")
                waiting = work.throw(Boom(f"at await {number}"))
        except StopIteration:
            return
        value, error = None, None
        try:
            value = yield waiting
        except BaseException as caught:
            error = caught


class Quick(SystemClock):
    """A clock that runs ten times as fast."""

    def monotonic(self) -> float:
        return 10 * super().monotonic()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s / 10)


class Target:
    """Which task is hit, at which await."""

    name = ""
    number = 0
    fired: list[str]


@pytest.mark.faults
@pytest.mark.parametrize("name", ["dialer", "gossip", "tick", "serve", "dial", "remember"])
async def test_an_exception_at_every_await_of_every_task_leaves_a_working_peer(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target()

    def armed(work: Coroutine[Any, Any, None], task: str) -> Any:
        if task.partition(" ")[0] != target.name or target.fired:
            return work
        return thrown_at(work, target.number, target.fired)

    async def run(self: Supervisor, task: str, work: Any) -> None:
        await plain_run(self, task, armed(work, task))

    async def keep(self: Supervisor, state: Any, make: Any) -> None:
        await plain_keep(self, state, lambda: armed(make(), state.name))

    plain_run, plain_keep = Supervisor._run, Supervisor._keep
    monkeypatch.setattr(Supervisor, "_run", run)
    monkeypatch.setattr(Supervisor, "_keep", keep)
    flock = Flock.generate()
    for home in "ab":
        await asyncio.to_thread(create_membership, Home(tmp_path / home), flock=flock)
    quiet = NodeSettings(is_mdns_on=False, interfaces=("127.0.0.1",), gossip_s=0.02)
    hits = 0
    target.name, target.number, target.fired = name, 1, []
    async with Node(tmp_path / "a", quiet, clock=Quick()) as a:
        settings = NodeSettings(
            is_mdns_on=False, interfaces=("127.0.0.1",), gossip_s=0.02, peers=(f"127.0.0.1:{a.port}",)
        )
        async with Node(tmp_path / "b", settings, clock=Quick()) as b:
            for number in range(1, 12):
                if not await fires(target, a):
                    break
                hits += 1
                target.number, target.fired = number + 1, []
                assert await linked(a, b), f"no link after an error at await {number} of {name}"
                assert not (await a.search("tent")).found
            target.fired = ["over"]
            assert await linked(a, b)
            assert hits >= 1
            shown = [(await node.perform("status", {}))["problems"] for node in (a, b)]
            caught = sum(node.gossip.counts["rejected internal"] for node in (a, b))
            assert sum((a.supervisor.failures + b.supervisor.failures).values()) + caught >= hits
            assert "Boom" in str(shown)


async def fires(target: Target, a: Node, turns: int = 25) -> bool:
    """Wait until the error was thrown; cut the link now and then so that serving and dialling happen."""
    for _ in range(turns):
        if target.fired:
            return True
        if target.name in ("serve", "dial", "remember"):
            for link in list(a.endpoint.links.values()):
                link.end("closing")
        await asyncio.sleep(0.03)
    return bool(target.fired)


async def linked(a: Node, b: Node) -> bool:
    for _ in range(400):
        if a.endpoint.links and b.endpoint.links:
            return True
        await asyncio.sleep(0.01)
    return False


def test_bans_double_are_told_and_survive_a_restart() -> None:
    clock, told, peer = VirtualClock(), list[tuple[bytes, Ban | None]](), b"p" * 32
    guard = Guard(clock, max_rejects=3, ban_s=600, on_change=lambda id, ban: told.append((id, ban)))
    for _ in range(3):
        guard.reject(peer, "signature")
    assert told == [(peer, Ban("signature", 600.0))]
    again = Guard(VirtualClock(), max_rejects=3, ban_s=600)
    again.restore(peer, Ban("signature", 600.0))
    assert again.is_banned(peer)
    assert again.why_banned(peer) == "signature"


async def test_a_ban_ends_and_the_next_one_is_longer_and_what_honest_peers_do_never_bans() -> None:
    clock, told, peer = VirtualClock(), list[tuple[bytes, Ban | None]](), b"p" * 32
    guard = Guard(clock, max_rejects=3, ban_s=600, on_change=lambda id, ban: told.append((id, ban)))
    for _ in range(3):
        guard.reject(peer, "field")
    await clock.advance(601)
    guard.sweep()
    assert told[-1] == (peer, None)
    for _ in range(3):
        guard.reject(peer, "field")
    assert told[-1] == (peer, Ban("field", 1200.0))
    honest = b"h" * 32
    for reason in (
        "order",
        "round",
        "sample",
        "time",
        "busy",
        "full",
        "slow",
        "removed",
        "rotated",
        "internal",
    ):
        for _ in range(50):
            assert not guard.reject(honest, reason)
    for _ in range(50):  # one a minute is given back
        await clock.advance(61)
        assert not guard.reject(honest, "field")


async def test_the_node_keeps_a_ban_over_a_restart(tmp_path: Path) -> None:
    quiet = NodeSettings(is_mdns_on=False, interfaces=("127.0.0.1",), gossip_s=0)
    peer = b"p" * 32
    async with Node(tmp_path / "a", quiet) as a:
        for _ in range(16):
            a.endpoint.guard.reject(peer, "signature")
        await asyncio.sleep(0)
        assert (await a.perform("status", {}))["bans"] == {"707070707070": "signature, 600 s"}
        for _ in range(200):
            if await a.owner.run(a.device.store.banned_peers):
                break
            await asyncio.sleep(0.01)
    async with Node(tmp_path / "a", quiet) as a:
        assert a.endpoint.guard.is_banned(peer)
        assert not a.endpoint.guard.is_banned(b"q" * 32)  # the control
