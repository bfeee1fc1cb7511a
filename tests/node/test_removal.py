"""Peers that really run put one of them out: it links to nobody who is on, and those that were off hear it first."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from flocklet import Node, NodeSettings
from flocklet.device.membership import create_membership
from flocklet.errors import PeerRefused, UsageError
from flocklet.identity.flock import Flock
from flocklet.identity.invitation import Invitation
from flocklet.store.home import Home
from flocklet.store.security_log import SecurityLog

LOOPBACK = "127.0.0.1"


@contextlib.asynccontextmanager
async def peer(home: Path, *to: Node) -> AsyncIterator[Node]:
    settings = NodeSettings(
        interfaces=(LOOPBACK,),
        is_mdns_on=False,
        gossip_s=0.05,
        peers=tuple(f"{LOOPBACK}:{node.port}" for node in to),
    )
    async with Node(home, settings) as node:
        yield node


async def until(is_true: Callable[[], Any], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not is_true():
            await asyncio.sleep(0.02)


async def devices(node: Node, **values: Any) -> dict[str, Any]:
    answer: dict[str, Any] = await node.perform("devices", values)
    return answer


def id_of(node: Node) -> bytes:
    return node.membership.identity.device_id


def is_linked(a: Node, b: Node) -> bool:
    link = a.endpoint.link(id_of(b))
    return link is not None and not link.is_closed


def is_named(node: Node, by: Node) -> bool:
    return id_of(node) in by.device.devices.roster.named


async def join(home: Path, inviter: Node) -> None:
    code = (await devices(inviter, act="invite"))["code"]
    await asyncio.to_thread(create_membership, Home(home), invitation=Invitation.parse(code))


@contextlib.asynccontextmanager
async def flock(folder: Path, count: int) -> AsyncIterator[list[Node]]:
    """Yield running devices, all named by the first, all linked with each other."""
    async with contextlib.AsyncExitStack() as stack:
        await asyncio.to_thread(create_membership, Home(folder / "0"))
        nodes = [await stack.enter_async_context(peer(folder / "0"))]
        for n in range(1, count):
            await join(folder / str(n), nodes[0])
            nodes.append(await stack.enter_async_context(peer(folder / str(n), *nodes)))
            await until(lambda: is_named(nodes[-1], nodes[0]))
        await until(lambda: all(is_named(a, b) for a in nodes for b in nodes))
        await until(lambda: all(is_linked(a, b) for a in nodes for b in nodes if a is not b))
        yield nodes


async def test_who_shows_the_token_is_named_once_and_the_secret_alone_makes_a_guest(tmp_path: Path) -> None:
    await asyncio.to_thread(create_membership, Home(tmp_path / "a"))
    async with peer(tmp_path / "a") as a:
        await join(tmp_path / "b", a)
        code = Invitation.parse((await devices(a, act="invite"))["code"])
        await asyncio.to_thread(
            create_membership,
            Home(tmp_path / "c"),
            invitation=Invitation(code.secret, b"8 bytes.", code.root),
        )
        async with peer(tmp_path / "c", a) as c:
            await until(lambda: is_linked(a, c))
            await until(lambda: c.gossip.counts["turns"] > 3)
            assert not is_named(c, a)
        await asyncio.to_thread(create_membership, Home(tmp_path / "d"), invitation=code)
        async with peer(tmp_path / "d", a) as d:
            await until(lambda: is_named(d, a) and is_named(d, d))
            await until(lambda: d.device.devices.roster.ticket == b"")
        async with peer(tmp_path / "b", a) as b:  # its token was replaced by the later invitation
            await until(lambda: is_linked(a, b) and b.gossip.counts["turns"] > 3)
            assert not is_named(b, a)


@pytest.mark.timeout(60)
async def test_a_removed_device_links_to_nobody_and_two_that_were_off_hear_it_first(tmp_path: Path) -> None:
    async with flock(tmp_path, 3) as nodes:
        off = []
        for n in (3, 4):
            await join(tmp_path / str(n), nodes[0])
            async with peer(tmp_path / str(n), *nodes) as node:
                await until(lambda node=node: is_named(node, nodes[0]) and is_named(node, node))
                off.append(id_of(node))
        lost = nodes[2]
        answer = await devices(nodes[0], act="remove", target=id_of(lost).hex()[:12])
        assert answer["told"]["named"] == 4 and not answer["also_unnamed"]
        await until(
            lambda: not nodes[0].endpoint.link(id_of(lost)) and not nodes[1].endpoint.link(id_of(lost))
        )
        await until(lambda: any(row["reason"] == "removed" for row in lost.refusals), 15.0)  # it is told why
        with pytest.raises(PeerRefused) as caught:
            await nodes[0].endpoint.connect(LOOPBACK, lost.port)
        assert caught.value.reason == "removed"
        assert not nodes[0].gossip.counts["rejected garbage"]
        told = {row["reason"] for row in lost.refusals} | {row.problem for row in lost.peers()}
        assert not any("break the protocol" in text for text in told), (
            told
        )  # the reason that it hears is the true one
        async with peer(tmp_path / "3", nodes[0], lost) as back:
            await until(lambda: is_linked(back, nodes[0]))
            await until(lambda: id_of(lost) in back.device.devices.roster.out)
            await until(
                lambda: back.device.devices.roster.newest() == nodes[0].device.devices.roster.newest()
            )
            await until(lambda: not is_linked(back, lost))
            with pytest.raises(PeerRefused):
                await back.endpoint.connect(LOOPBACK, lost.port)
        secret = nodes[0].device.devices.roster.newest()
        assert secret is not None and secret not in lost.device.devices.roster.secrets
    events = await asyncio.to_thread(list, SecurityLog(tmp_path / "1" / "security.log").read())
    assert {"named", "removed", "secret"} <= {event.kind for event in events}


async def test_a_guest_is_out_after_a_change_of_the_secret_and_comes_back_with_a_new_code(
    tmp_path: Path,
) -> None:
    async with flock(tmp_path, 2) as (a, b):
        secret = a.device.devices.roster.newest()
        assert secret is not None
        await asyncio.to_thread(create_membership, Home(tmp_path / "g"), flock=Flock.closed(secret))
        async with peer(tmp_path / "g", a, b) as guest:
            await until(lambda: is_linked(a, guest) and is_linked(b, guest))
            await devices(a, act="secret")
            await until(lambda: not is_linked(a, guest) and not is_linked(b, guest))
            await until(lambda: b.device.devices.roster.newest() == a.device.devices.roster.newest())
            with pytest.raises(PeerRefused) as caught:
                await guest.endpoint.connect(LOOPBACK, a.port)
            assert caught.value.reason in ("rotated", "flock", "removed")
            assert is_linked(a, b)


async def test_no_event_is_lost_by_a_removal_and_dropping_forgets_those_of_the_removed(
    tmp_path: Path,
) -> None:
    from flocklet.device.results import PastClick

    async with flock(tmp_path, 3) as nodes:
        for n, node in enumerate(nodes):
            await node.owner.run(node.device.record, [PastClick("me", f"query {n}", (1, 2), 0, 5.0)])
        await until(lambda: all(len(node.device.log) == 3 for node in nodes))
        await devices(nodes[0], act="remove", target=id_of(nodes[2]).hex()[:12])
        await until(lambda: not is_linked(nodes[1], nodes[2]))
        assert [len(node.device.log) for node in nodes] == [3, 3, 3]


async def test_what_a_dropped_device_clicked_is_forgotten_for_good(tmp_path: Path) -> None:
    from flocklet.device.results import PastClick

    async with flock(tmp_path, 3) as (a, b, lost):
        for n, node in enumerate((a, b, lost)):
            await node.owner.run(node.device.record, [PastClick("me", f"query {n}", (1, 2), 0, 5.0)])
            await node.owner.run(node.device.vouch)
        await until(lambda: all(len(node.device.log) == 3 for node in (a, b, lost)))
        origin = lost.device.identity_of("me").origin
        await until(lambda: all(origin in n.device.taste.answered_for_by(id_of(lost)) for n in (a, b)))
        await devices(a, act="remove", target=id_of(lost).hex()[:12], drop=True)
        await until(lambda: [len(node.device.log) for node in (a, b)] == [2, 2])
        assert not list(b.device.log.entries(origin))
        assert len(lost.device.log) == 3  # the removed one keeps what it has
        await b.stop()
        async with peer(tmp_path / "1", a) as again:
            await until(lambda: is_linked(a, again) and again.gossip.counts["turns"] > 3)
            assert len(again.device.log) == 2


@pytest.mark.timeout(60)
async def test_a_device_that_a_thief_misled_hears_the_truth_from_whom_it_refuses(tmp_path: Path) -> None:
    """The thief's word reaches C before the owner's: C refuses the owner, who brings C the removal of the thief."""
    async with flock(tmp_path, 3) as (owner, c, thief):
        for node in (owner, thief):  # each says its word while nobody listens
            node.gossip.set_every(0.0)
        await c.stop()
        with pytest.raises(UsageError, match="only that device has named"):
            await devices(thief, act="remove", target=id_of(owner).hex()[:12])
        await devices(thief, act="remove", target=id_of(owner).hex()[:12], keep=[id_of(c).hex()[:12]])
        await devices(owner, act="remove", target=id_of(thief).hex()[:12])
        await owner.stop()
        async with peer(tmp_path / "1", thief) as misled:
            await until(lambda: id_of(owner) in misled.device.devices.roster.out)
            async with peer(tmp_path / "0", misled) as again:
                await until(lambda: any(row["reason"] == "removed" for row in again.refusals))
                await until(lambda: id_of(thief) in misled.device.devices.roster.out)
                await until(lambda: not is_linked(misled, thief))
                await devices(misled, act="back", target=id_of(owner).hex()[:12])
                assert id_of(owner) not in misled.device.devices.roster.out
