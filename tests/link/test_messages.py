"""Links between peers in memory, on a virtual clock: messages, credits, deadlines, heartbeats, bans, faults."""

import asyncio
import dataclasses
import gc
from dataclasses import dataclass
from typing import Annotated, ClassVar

import pytest

from flocklet.clock import VirtualClock
from flocklet.errors import IdentityError, LinkError, PeerRefused, WireError
from flocklet.identity.certificate import make_certificate
from flocklet.identity.flock import Flock
from flocklet.identity.key import Identity, short_id
from flocklet.link.endpoint import Endpoint
from flocklet.link.handshake import Party
from flocklet.link.settings import LinkSettings
from flocklet.testing.network import Fault, FaultPlan, MemoryNetwork, fragile, peers
from flocklet.wire.door import Door
from flocklet.wire.frame import encode_hop, open_frame, seal
from flocklet.wire.kinds import Kind
from flocklet.wire.schema import Within


async def linked(a, b):
    """Return both ends of a new link."""
    here = await a.connect(b)
    return here, b.links[-1]


async def answer_all(link):
    async for message in link:
        if "rid" in message.header:
            await link.reply(message, "note!", {"got": message.body})


async def turns(count=50):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_both_ends_know_each_other():
    async with peers(2) as (a, b):
        here, there = await linked(a, b)
        assert here.peer.device_id == b.identity.device_id
        assert there.peer.device_id == a.identity.device_id
        assert here.is_opened_here
        assert not there.is_opened_here
        assert a.endpoint.link(b.identity.device_id) is here


async def test_messages_keep_their_order_both_ways():
    async with peers(2) as (a, b):
        here, there = await linked(a, b)

        async def sender(link):
            for number in range(500):
                await link.send("data!" if number % 2 else "offer", {"n": number})

        async def receiver(link):
            return [(await link.recv()).body["n"] for _ in range(500)]

        results = await asyncio.gather(sender(here), sender(there), receiver(here), receiver(there))
        assert results[2] == results[3] == list(range(500))


async def test_request_gets_its_own_reply():
    async with peers(2) as (a, b):
        here, there = await linked(a, b)
        async with asyncio.TaskGroup() as group:
            server = group.create_task(answer_all(there))
            replies = await asyncio.gather(*(here.request("note?", {"n": n}) for n in range(40)))
            assert [reply.body["got"]["n"] for reply in replies] == list(range(40))
            server.cancel()


async def test_fail_is_a_refusal_with_its_reason():
    async with peers(2) as (a, b):
        here, there = await linked(a, b)
        question = asyncio.ensure_future(here.request("note?", {}))
        await there.fail(await there.recv(), "missing")
        with pytest.raises(PeerRefused) as caught:
            await question
        assert caught.value.reason == "missing"


async def test_sealed_message_arrives_with_its_author_and_once():
    async with peers(3) as (a, b, c):
        sealed = seal(c.identity, "gossip", {"x": 1}, run=b"r" * 8, seq=1)
        here, there = await linked(a, b)
        await here.send_sealed(sealed)
        frame = await there.recv()
        assert (frame.author, frame.raw) == (c.identity.device_id, sealed)
        await here.send_sealed(sealed)
        await here.send("offer", {})
        assert (await there.recv()).type == "offer"
        assert there.dropped == {"replay": 1}
        with pytest.raises(WireError):
            await here.send_sealed(encode_hop("offer", {}))


async def test_sender_stops_when_credits_are_spent_and_goes_on_when_granted():
    clock = VirtualClock()
    async with peers(2, clock=clock) as (a, b):
        here, there = await linked(a, b)
        for number in range(32):
            await here.send("data!", {"n": number})
        blocked = asyncio.ensure_future(here.send("data!", {"n": 32}, timeout_s=10))
        await turns()
        assert not blocked.done()
        await here.send("offer", {})  # control has a window of its own
        for _ in range(16):
            await there.recv()
        await blocked
        late = [asyncio.ensure_future(here.send("data!", {"n": n}, timeout_s=10)) for n in range(40)]
        await clock.advance(11)
        done = await asyncio.gather(*late, return_exceptions=True)
        assert any(isinstance(error, LinkError) for error in done)
        assert "within 10 s" in str(next(error for error in done if error))


async def test_peer_that_ignores_credits_is_cut_off():
    async with peers(2) as (a, b):
        here, there = await linked(a, b)
        for _ in range(33):
            here._pipe.send(encode_hop("data!", {}))
        await turns()
        assert there.is_closed
        assert here.error.reason == "credit"
        assert len(there._queue) <= 32


async def test_every_operation_has_a_deadline():
    clock = VirtualClock()
    async with peers(2, clock=clock, settings=LinkSettings(operation_s=3)) as (a, b):
        here, _ = await linked(a, b)
        asked = asyncio.ensure_future(here.request("note?", {}))
        awaited = asyncio.ensure_future(here.recv(timeout_s=2))
        await clock.advance(4)
        for task in (asked, awaited):
            with pytest.raises(LinkError, match="within"):
                await task
        assert not here.is_closed


async def test_late_reply_is_dropped_and_an_unasked_one_is_counted():
    clock = VirtualClock()
    async with peers(2, clock=clock) as (a, b):
        here, there = await linked(a, b)
        asked = asyncio.ensure_future(here.request("note?", {}, timeout_s=1))
        request = await there.recv()
        await clock.advance(2)
        with pytest.raises(LinkError):
            await asked
        await there.reply(request, "ok", {})
        await turns()
        assert not a.endpoint.guard.rejects(b.identity.device_id)
        there._pipe.send(encode_hop("ok", {}, re=77))
        await turns()
        assert a.endpoint.guard.rejects(b.identity.device_id) == {"order": 1}


async def test_heartbeats_keep_a_silent_link_and_end_a_dead_one():
    clock = VirtualClock()
    async with peers(2, clock=clock) as (a, b):
        here, there = await linked(a, b)
        await clock.advance(120)
        assert not here.is_closed
        assert (here.rtt_s, there.rtt_s) != (None, None)
        there._pipe.hold()  # the peer hangs: alive for TCP, dead for us
        await clock.advance(25)
        assert here.is_closed
        assert here.error.reason == "timeout"
        with pytest.raises(LinkError):
            await here.send("offer", {})


async def test_fast_peer_is_slowed_to_its_rate():
    clock = VirtualClock()
    settings = LinkSettings(max_bytes_per_s=100_000, burst_bytes=100_000)
    async with peers(2, clock=clock, settings=settings) as (a, b):
        here, there = await linked(a, b)
        got = []

        async def receiver():
            async for message in there:
                got.append(message.body["n"])

        reader = asyncio.ensure_future(receiver())
        sender = asyncio.gather(*(here.send("data!", {"n": n, "x": bytes(50_000)}) for n in range(30)))
        await clock.advance(5)
        assert 5 <= len(got) <= 20  # 500 kB in five seconds, and the burst
        await clock.advance(20)
        await sender
        assert got == list(range(30))
        reader.cancel()


async def test_bad_messages_are_counted_and_then_ban():
    clock = VirtualClock()
    async with peers(2, clock=clock, settings=LinkSettings(max_rejects=5, ban_s=60)) as (a, b):
        here, there = await linked(a, b)
        good = encode_hop("offer", {"x": 1.5})
        bad = good.replace(b"\x3f\xf8" + bytes(6), b"\x7f\xf8" + bytes(6))
        assert bad != good
        for _ in range(4):
            here._pipe.send(bad)
        here._pipe.send(good)
        await turns()
        assert not there.is_closed  # the control: four are forgiven
        assert (await there.recv()).body == {"x": 1.5}
        here._pipe.send(bad)
        await turns()
        assert here.error.reason == "banned"
        assert b.endpoint.guard.why_banned(a.identity.device_id) == "finite"
        with pytest.raises(PeerRefused) as caught:
            await a.connect(b)
        assert caught.value.reason == "banned"
        await clock.advance(61)
        assert not (await a.connect(b)).is_closed


async def test_garbage_on_a_link_ends_it_with_a_reason_on_both_sides():
    async with peers(2) as (a, b):
        here, there = await linked(a, b)
        here._pipe.send(b"\xff" * 100)
        await turns()
        assert there.error.reason == "garbage"
        assert here.error.reason == "garbage"
        assert b.endpoint.guard.rejects(a.identity.device_id) == {"length": 1}
        assert not (await a.connect(b)).is_closed


async def test_hostile_credit_and_bye_messages():
    async with peers(2) as (a, b):
        here, there = await linked(a, b)
        for body in ({"data": -1}, {"data": 1 << 40}, {"control": "x"}, {"data": 1.5}):
            here._pipe.send(encode_hop("credit", body))
        await turns()
        assert b.endpoint.guard.rejects(a.identity.device_id) == {"field": 4}
        here._pipe.send(encode_hop("bye", {"reason": ["x"]}))
        await turns()
        assert b.endpoint.guard.rejects(a.identity.device_id) == {"field": 4, "msgpack": 1}
        assert not there.is_closed
        here._pipe.send(encode_hop("bye", {"reason": "tired"}))
        await turns()
        assert there.error.reason == "other"


@dataclass(frozen=True, slots=True)
class Question:
    kind: ClassVar[str] = "note?"
    n: Annotated[int, Within(0, 99)]


@dataclass(frozen=True, slots=True)
class Answer:
    kind: ClassVar[str] = "note!"
    n: Annotated[int, Within(0, 99)]


@dataclass(frozen=True, slots=True)
class Later:
    """What a later release speaks: a new kind, and no new version."""

    kind: ClassVar[str] = "later?"
    n: Annotated[int, Within(0, 99)]


@dataclass(frozen=True, slots=True)
class LaterAnswer:
    kind: ClassVar[str] = "later!"
    n: Annotated[int, Within(0, 99)]


NOTES = tuple(Kind.of(message) for message in (Question, Answer))
LATER = (*NOTES, *(Kind.of(message) for message in (Later, LaterAnswer)))


async def answering(link):
    async for frame in link:
        await link.answer(frame, Answer(frame.body.n + 1))


async def test_a_question_gets_a_typed_answer_and_nothing_else_settles_it():
    async with peers(2, door=lambda: Door(NOTES)) as (a, b):
        here, there = await linked(a, b)
        asked = asyncio.ensure_future(here.ask(Question(1)))
        request = await there.recv()
        assert request.body == Question(1)
        wrong = [
            encode_hop("note!", {"n": 100}, re=77),  # an answer to nothing asked
            encode_hop("note?", {"n": 1}),  # a question without a number
            encode_hop("note!", {"n": 1}),  # an answer without one
            encode_hop("ok", {}, re=request.header["rid"]),  # another kind of answer
        ]
        for data in wrong:
            there._pipe.send(data)
        await turns()
        assert not asked.done()
        assert a.endpoint.guard.rejects(b.identity.device_id) == {"field": 1, "header": 2, "type": 1}
        await there.answer(request, Answer(2))
        there._pipe.send(encode_hop("note!", {"n": 3}, re=request.header["rid"]))  # a second answer
        assert await asked == Answer(2)
        await turns()
        assert not here.is_closed


async def test_a_malformed_answer_ends_the_wait_and_a_malformed_question_is_told():
    async with peers(2, door=lambda: Door(NOTES)) as (a, b):
        here, there = await linked(a, b)
        asked = asyncio.ensure_future(here.ask(Question(1)))
        request = await there.recv()
        there._pipe.send(encode_hop("note!", {"n": "x"}, re=request.header["rid"]))
        with pytest.raises(PeerRefused) as caught:
            await asked
        assert caught.value.reason == "garbage"
        assert a.endpoint.guard.rejects(b.identity.device_id) == {"field": 1}
        with pytest.raises(PeerRefused) as caught:
            await here.request("note?", {"n": 1000})
        assert caught.value.reason == "garbage"
        assert b.endpoint.guard.rejects(a.identity.device_id) == {"field": 1}


async def test_kinds_of_no_room_are_refused_by_their_header():
    async with peers(2, door=lambda: Door(NOTES)) as (a, b):
        here, there = await linked(a, b)
        here._pipe.send(encode_hop("other?", {}, rid=1))
        await turns()
        assert b.endpoint.guard.rejects(a.identity.device_id) == {"type": 1}
        assert there.is_closed


async def test_a_new_kind_needs_no_new_version():
    doors = iter((Door(NOTES), Door(LATER)))
    async with peers(2, door=lambda: next(doors)) as (old, new):
        link = await new.connect(old)
        serving = asyncio.ensure_future(answering(old.links[-1]))
        assert link.speaks(Question)
        assert not link.speaks(Later)
        with pytest.raises(PeerRefused, match="kind") as caught:
            await link.ask(Later(1))
        assert caught.value.reason == "kind"
        assert "update" in caught.value.remedy
        assert await link.ask(Question(1)) == Answer(2)  # the control: what both speak goes on
        assert not old.endpoint.guard.rejects(new.identity.device_id)
        serving.cancel()


@pytest.mark.parametrize(("versions", "spoken"), [((2, 3), 2), ((2, 2), 2)])
async def test_two_versions_overlap_for_one_release(versions, spoken):
    async with peers(2, door=lambda: Door(NOTES)) as (a, b):
        b.endpoint.party = dataclasses.replace(b.endpoint.party, versions=versions)
        link = await a.connect(b)
        assert link.peer.version == b.links[-1].peer.version == spoken
        serving = asyncio.ensure_future(answering(b.links[-1]))
        assert await link.ask(Question(4)) == Answer(5)
        serving.cancel()


@pytest.mark.parametrize(("versions", "who"), [((1, 1), "update {b}"), ((3, 4), "update this device")])
async def test_without_a_common_version_both_sides_say_who_is_old(versions, who):
    async with peers(2) as (a, b):
        b.endpoint.party = dataclasses.replace(b.endpoint.party, versions=versions)
        with pytest.raises(PeerRefused) as caught:
            await a.connect(b)
        assert caught.value.reason == "version"
        assert who.format(b=short_id(b.identity.device_id)) in str(caught.value)


async def test_clocks_are_told_and_decide_nothing():
    clock = VirtualClock()
    async with peers(2, clock=clock) as (a, b):
        b.endpoint.clock = ahead = _Ahead(clock, 3 * 86_400)
        here, there = await linked(a, b)
        there._clock = ahead
        assert here.clock_ahead_s is None
        await clock.advance(11)
        await turns()
        assert here.clock_ahead_s is not None and there.clock_ahead_s is not None
        assert abs(here.clock_ahead_s - 3 * 86_400) <= 60
        assert abs(there.clock_ahead_s + 3 * 86_400) <= 60
        assert not here.is_closed


class _Ahead:
    """A device whose wall clock is wrong."""

    def __init__(self, clock, by_s):
        self._clock, self._by_s = clock, by_s
        self.monotonic, self.sleep = clock.monotonic, clock.sleep

    def time(self):
        return self._clock.time() + self._by_s


async def test_end_is_told_and_frees_everybody_who_waits():
    async with peers(2) as (a, b):
        here, there = await linked(a, b)
        await here.send("offer", {"last": True})
        waiting = [
            asyncio.ensure_future(here.recv()),
            asyncio.ensure_future(here.request("note?", {})),
            *(asyncio.ensure_future(here.send("data!", {})) for _ in range(40)),
        ]
        await turns()
        await there.close()
        done = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(
            isinstance(error, PeerRefused) and getattr(error, "reason", "") == "closing" for error in done[:2]
        )
        assert b.endpoint.links == {}
        assert a.endpoint.links == {}
        with pytest.raises(PeerRefused):
            await here.recv()


async def test_messages_that_came_before_the_end_can_still_be_read():
    async with peers(2) as (a, b):
        here, there = await linked(a, b)
        await here.send("offer", {"n": 1})
        await here.close()
        await turns()
        assert (await there.recv()).body == {"n": 1}
        with pytest.raises(LinkError):
            await there.recv()


async def test_peer_replaces_its_own_older_link():
    async with peers(2) as (a, b):
        first, _ = await linked(a, b)
        second, there = await linked(a, b)
        await turns()
        assert first.is_closed
        assert not second.is_closed
        assert b.endpoint.links == {a.identity.device_id: there}
        assert first.error.reason == "duplicate"


@pytest.mark.parametrize("order", [0, 1])
async def test_simultaneous_links_leave_the_one_of_the_smaller_id(order):
    async with peers(2) as pair:
        a, b = pair if order else pair[::-1]
        one, two = await asyncio.gather(a.connect(b), b.connect(a))
        await turns(200)
        small = min(a.identity.device_id, b.identity.device_id)
        (at_a,), (at_b,) = a.endpoint.links.values(), b.endpoint.links.values()
        opener = a if at_a.is_opened_here else b
        assert opener.identity.device_id == small
        assert at_a.is_opened_here != at_b.is_opened_here
        assert not at_a.is_closed
        assert not at_b.is_closed
        await at_a.send("offer", {})
        assert (await at_b.recv()).type == "offer"
        assert {one, two} & {at_a, at_b}


async def test_restarted_peer_is_let_in_whoever_opened_the_old_link():
    network = MemoryNetwork()
    async with peers(2, network=network) as (a, b):
        old = await b.connect(a)
        async with peers(1, network=network, first_seed=2) as (again,):
            assert again.identity == b.identity
            new = await again.connect(a)
            await turns()
            assert old.is_closed
            assert not new.is_closed


async def test_too_many_links():
    async with peers(4, settings=LinkSettings(max_links=2)) as (a, b, c, d):
        await b.connect(a)
        await c.connect(a)
        with pytest.raises(PeerRefused) as caught:
            await d.connect(a)
        assert caught.value.reason == "full"
        assert not (await b.connect(a)).is_closed  # a known peer replaces its own


async def test_clone_is_reported_on_both_sides():
    network, heard = MemoryNetwork(), []
    async with peers(1, network=network) as (a,), peers(1, network=network) as (clone,):
        a.endpoint.on_refused = lambda error: heard.append(("a", error.reason))
        clone.endpoint.on_refused = lambda error: heard.append(("clone", error.reason))
        with pytest.raises(PeerRefused) as caught:
            await clone.connect(a)
        assert caught.value.reason == "clone"
        assert "--rotate" in caught.value.remedy
        assert sorted(heard) == [("a", "clone"), ("clone", "clone")]


async def test_stranger_is_refused_with_the_reason_on_both_sides():
    network, heard = MemoryNetwork(), []
    async with (
        peers(1, network=network) as (a,),
        peers(1, network=network, flock=Flock.open(), first_seed=9) as (s,),
    ):
        a.endpoint.on_refused = lambda error: heard.append(error.reason)
        with pytest.raises(PeerRefused) as caught:
            await s.connect(a)
        await turns()
        assert caught.value.reason == "flock"
        assert heard == ["flock"]
        assert a.endpoint.guard.strangers == {"flock": 1}
        assert a.endpoint.links == {}


async def test_own_certificate_is_judged_before_anybody_sees_it():
    identity, other = Identity.from_seed(b"1" * 32), Identity.from_seed(b"2" * 32)
    endpoint = Endpoint(Party(identity, make_certificate(other), Flock.open()), network=MemoryNetwork())
    with pytest.raises(IdentityError, match="another key"):
        await endpoint.serve()


async def test_nobody_there():
    async with peers(1) as (a,):
        with pytest.raises(LinkError, match="refused"):
            await a.endpoint.connect("memory", 1)


async def test_handshake_has_one_deadline_on_both_sides():
    clock = VirtualClock()
    plan = FaultPlan(rates={Fault.SLOW: 1.0}, slow_s=60)
    async with peers(2, clock=clock, plan=plan) as (a, b):
        attempt = asyncio.ensure_future(a.connect(b))
        await clock.advance(5.1)
        with pytest.raises(LinkError, match="5 s"):
            await attempt
        assert a.endpoint._greetings == {}
        assert b.endpoint._greetings == {}
        assert b.endpoint.guard.strangers == {"timeout": 1}


@pytest.mark.parametrize("fault", [Fault.FAIL_BEFORE, Fault.FAIL_WHILE, Fault.FAIL_AFTER])
async def test_connection_that_breaks_at_any_write_leaves_no_trace(fault):
    """Break each write of a handshake and of the first messages in turn."""
    for spared in range(8):
        clock = VirtualClock()
        plan = FaultPlan(seed=spared, rates={fault: 1.0}, spare_writes=spared)
        async with peers(2, clock=clock, plan=plan) as (a, b):

            async def talk(a=a, b=b):
                link = await a.connect(b)
                for _ in range(4):
                    await link.send("offer", {})
                    await turns(10)
                await link.recv()

            task = asyncio.ensure_future(talk())
            await clock.advance(20)
            with pytest.raises(LinkError):
                await task
            plan.rates = {}
            link = await asyncio.wait_for(a.connect(b), 5)  # the control: the next attempt works
            assert not link.is_closed
        assert len(asyncio.all_tasks()) == 1, spared


async def test_same_seed_same_faults():
    def draw(seed):
        plan = FaultPlan(seed=seed, rates={Fault.SLOW: 0.3, Fault.FAIL_WHILE: 0.1})
        return [plan.draw((Fault.SLOW, Fault.FAIL_WHILE)) for _ in range(200)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert set(draw(1)) == {Fault.SLOW, Fault.FAIL_WHILE, Fault.NONE}


async def test_exception_in_a_callback_fails_the_test():
    with pytest.raises(AssertionError, match="boom"):
        async with fragile():
            asyncio.get_running_loop().call_soon(
                lambda: 1 / 0 if False else (_ for _ in ()).throw(ValueError("boom"))
            )
            await turns(2)

            async def lost():
                raise ValueError("boom")

            task = asyncio.ensure_future(lost())
            await turns(2)
            del task
            gc.collect()


async def test_large_message_is_refused_before_it_is_sent():
    async with peers(2) as (a, b):
        here, there = await linked(a, b)
        with pytest.raises(WireError, match="larger than"):
            await here.send("data!", {"data": bytes(2_000_000)})
        await here.send("data!", {"data": bytes(1_000_000)})
        assert len((await there.recv()).body["data"]) == 1_000_000


async def test_slow_reader_holds_the_sender_back():
    """Bytes wait at the sender's side, not in the memory of the receiver."""
    async with peers(2) as (a, b):
        here, there = await linked(a, b)
        sender = asyncio.gather(*(here.send("data!", {"data": bytes(500_000)}) for _ in range(100)))
        await turns(300)
        assert not sender.done()
        assert len(there._queue) <= 32
        for _ in range(100):
            await there.recv()
        await sender


def test_open_frame_needs_exactly_one():
    data = encode_hop("offer", {})
    open_frame(data)
    with pytest.raises(WireError):
        open_frame(data + data)
