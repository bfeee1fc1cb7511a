"""Damaged bodies of every kind at the door, and through a running peer: refusals, and nothing else."""

from __future__ import annotations

import asyncio
import random
import resource
from pathlib import Path

import pytest

from flocklet.device.membership import create_membership, load_membership
from flocklet.errors import WireError
from flocklet.identity.flock import Flock
from flocklet.link.endpoint import Endpoint
from flocklet.link.handshake import Party
from flocklet.link.settings import LinkSettings
from flocklet.node.node import Node, NodeSettings
from flocklet.store.home import Home
from flocklet.testing.mutate_bodies import damaged, sound_body
from flocklet.wire.body import pack_body
from flocklet.wire.door import Door
from flocklet.wire.frame import PREFIX
from flocklet.wire.kinds import Bye, Credit, Fail, Hello, Kind, Ok, Ping, Pong, Proof, Role, Size, Welcome
from flocklet.wire.messages import PROTOCOL_VERSION
from flocklet.wire.schema import schema_of

CORPUS = Path(__file__).parents[1] / "corpus"


def every_kind() -> list[Kind]:
    """Return the kinds of a running peer, and those of the handshake with their schemas."""
    from flocklet.device.click_feed import ClickFeed
    from flocklet.device.delta_feed import DeltaFeed
    from flocklet.device.edge_feed import EdgeFeed
    from flocklet.device.flock_feed import FlockFeed
    from flocklet.link.transfer import CONTENT_KINDS
    from flocklet.node.told_feed import ToldFeed

    feeds = (ClickFeed, DeltaFeed, EdgeFeed, FlockFeed, ToldFeed)
    return [
        *(Kind.of(message, Role.NOTE, Size.HANDSHAKE) for message in (Hello, Proof, Welcome)),
        *(Kind.of(message, Role.LINK) for message in (Ping, Pong, Credit, Bye)),
        *(Kind.of(message, Role.REPLY) for message in (Fail, Ok)),
        *CONTENT_KINDS,
        *(Kind.of(message) for feed in feeds for message in feed.kinds),
    ]


@pytest.mark.parametrize("kind", every_kind(), ids=lambda kind: str(kind.name))
def test_damaged_bodies_of_each_kind_are_taken_or_refused(kind: Kind) -> None:
    """One entry per kind and stage; a sound body is the control."""
    rng, door = random.Random(f"door {kind.name}"), Door()
    refused = 0
    for _ in range(250):
        body = sound_body(kind, rng)
        assert type(door.read(kind, pack_body(body))) is kind.message
        try:
            message = door.read(kind, damaged(kind, body, rng))
        except WireError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            schema_of(type(message))
    assert refused >= 100


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.hex")), ids=lambda path: str(path.stem))
def test_findings_of_the_past_stay_refusals(path: Path) -> None:
    """Each line of the corpus is a body that once did harm (`kind.hex`, one body a line)."""
    kind = next(kind for kind in every_kind() if kind.name.rstrip("?!") == path.stem.rpartition("-")[0])
    for line in path.read_text("ascii").split():
        with pytest.raises(WireError):
            Door().read(kind, bytes.fromhex(line))


def framed(kind: Kind, body: bytes, rng: random.Random) -> bytes:
    """Return a frame of this kind; its numbers sound most of the time."""
    header = {"v": PROTOCOL_VERSION, "type": kind.name}
    if kind.role is Role.REQUEST and rng.random() < 0.9:
        header["rid"] = rng.randint(1, 9)
    if kind.role is Role.REPLY and rng.random() < 0.9:
        header["re"] = rng.randint(1, 9)
    import msgpack

    packed = msgpack.packb(header)
    return PREFIX.pack(2 + len(packed) + len(body), len(packed)) + packed + body


@pytest.mark.faults
async def test_five_thousand_damaged_bodies_through_a_running_peer(tmp_path: Path) -> None:
    """Fault row 1: nothing unhandled, no task dead, memory where it was, and the peer still answers."""
    flock = Flock.generate()
    for name in ("honest", "hostile"):
        await asyncio.to_thread(create_membership, Home(tmp_path / name), flock=flock)
    membership = await asyncio.to_thread(load_membership, Home(tmp_path / "hostile"))
    rng = random.Random(20260303)
    kinds = [kind for kind in every_kind() if kind.size is not Size.HANDSHAKE and kind.name != "bye"]
    async with Node(
        tmp_path / "honest", NodeSettings(is_mdns_on=False, interfaces=("127.0.0.1",), gossip_s=0)
    ) as node:
        node.endpoint.guard._max_rejects = 1 << 30  # a ban would end the test after 16 bodies
        party = Party(membership.identity, membership.certificate, flock)
        hostile = Endpoint(party, door=Door(node.endpoint.door), settings=LinkSettings())
        sent, before = 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        while sent < 5_000:
            link = await hostile.connect("127.0.0.1", node.port)
            for _ in range(250):
                if link.is_closed:
                    break
                kind = rng.choice(kinds)
                body = damaged(kind, sound_body(kind, rng), rng)
                if len(body) > 60_000:
                    continue
                link._pipe.send(framed(kind, body, rng))
                sent += 1
                if sent % 25 == 0:
                    await link._pipe.drain()
                    await asyncio.sleep(0)
            await link.close()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        status = await node.status()
        assert not node.supervisor.failures
        assert {task.state for task in status.tasks} == {"running"}
        assert not node.gossip.counts["rejected internal"]
        assert sum(status.refused.values()) > 1_000
        assert grown < 16 * 1024, f"memory grew by {grown} KiB"
        link = await hostile.connect("127.0.0.1", node.port)  # the control: it still serves
        from flocklet.node.told_feed import PeersAnswer, PeersQuestion

        assert isinstance(await link.ask(PeersQuestion()), PeersAnswer)
        await hostile.close()


@pytest.mark.faults
def test_unpacking_bombs_of_every_kind_are_refused_before_they_are_inflated() -> None:
    """Fault row 2: 8 kB that would become 8 MiB, 64 at once, of each kind; the control inflates one."""
    import tracemalloc
    import zlib

    import msgpack

    from flocklet.wire.body import Limits, unpack_body

    code, packed = 4, b"d\x01" + (1 << 20).to_bytes(4, "big") + zlib.compress(bytes(8 << 20), 9)
    assert len(packed) < 10_000
    door = Door()
    tracemalloc.start()
    try:
        for kind in every_kind():
            rng = random.Random(kind.name)
            rules = kind.schema.rules
            bodies = [
                msgpack.packb({**sound_body(kind, rng), key: msgpack.ExtType(code, packed)})
                for key in (*(rule.key for rule in rules), "extra")
            ]
            base = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            for _ in range(64 // len(bodies) + 1):
                for body in bodies:
                    with pytest.raises(WireError):
                        door.read(kind, body)
            assert tracemalloc.get_traced_memory()[1] - base < 1 << 20
        tracemalloc.reset_peak()
        bomb = msgpack.packb({"x": msgpack.ExtType(code, packed)})
        unpack_body(bomb, Limits(max_elements=1 << 20))
        assert tracemalloc.get_traced_memory()[1] > 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.fuzz
@pytest.mark.timeout(120)
def test_the_door_for_half_a_minute() -> None:
    """Other bodies each time: the seed is printed, and what it finds goes to tests/corpus."""
    import time

    seed = random.SystemRandom().randrange(1 << 32)
    rng, door, kinds = random.Random(seed), Door(), every_kind()
    end_s, bodies = time.monotonic() + 30, 0
    while time.monotonic() < end_s:
        for kind in kinds:
            data = damaged(kind, sound_body(kind, rng), rng)
            try:
                door.read(kind, data)
            except WireError:
                pass
            except Exception as error:
                pytest.fail(f"seed {seed}, kind {kind.name}, body {data[:200].hex()}: {error!r}")
            bodies += 1
    assert bodies > 10_000
