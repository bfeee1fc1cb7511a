"""A pull brings over what is missing, in few bytes, and believes nothing that is not signed."""

import zlib
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flocklet.errors import WireError
from flocklet.events.click import ClickEntry
from flocklet.events.click_log import ClickLog, Limits
from flocklet.events.click_outcome import Absorbed
from flocklet.events.click_sync import (
    MAX_MESSAGE_SIZE,
    ClickAnswer,
    ClickDigest,
    ClickQuestion,
    DifferingBuckets,
    Pull,
    absorb_steps,
    answer,
    answer_digest,
    answer_steps,
    question,
)
from flocklet.events.feed import finish
from flocklet.identity.key import Identity
from flocklet.wire.schema import Message, body_of, schema_of

PEOPLE = [Identity.from_seed(bytes([n]) * 32) for n in range(6)]
ALL = 2**64 - 1


def entry(person: Identity, seq: int, item: int = 1) -> ClickEntry:
    return ClickEntry.signed(person, seq=seq, query="fox", shown=(item,), clicked=0, ts=0)


def message_size(message: Message) -> int:
    return len(msgpack.packb(body_of(message)))


def pull_answer(log: ClickLog, request: ClickQuestion) -> ClickAnswer:
    return finish(answer_steps(log, request))


def pull_request(log: ClickLog, buckets: int) -> ClickQuestion:
    return question(log, buckets)


def absorb(log: ClickLog, answer: ClickAnswer, now_s: float) -> Absorbed:
    into = Absorbed()
    finish(absorb_steps(log, answer, now_s, into))
    return into


def filled(*counts: int, limits: Limits | None = None) -> ClickLog:
    log = ClickLog(limits)
    for person, count in zip(PEOPLE, counts, strict=False):
        log.learn_key(person.public_key)
        for seq in range(1, count + 1):
            log.restore(entry(person, seq))
    return log


def run(asker: ClickLog, asked: ClickLog, *, via: bytes = b"peer", limit: int = 512) -> tuple[Pull, int, int]:
    """Pull to the end; return the pull, the bytes of all its messages and their number."""
    pull, size, messages = Pull(asker, via=via, limit=limit), 0, 0
    while pull.request is not None:
        request = pull.request
        told = answer(asked, request)
        size += message_size(request) + message_size(told)
        messages += 2
        pull.take(told, 0.0)
    return pull, size, messages


def test_a_pull_brings_everything_and_then_costs_one_digest() -> None:
    asker, asked = ClickLog(), filled(5, 0, 3)
    pull, _, _ = run(asker, asked)
    assert len(pull.absorbed.accepted) == len(asker) == 8
    assert {PEOPLE[0].public_key, PEOPLE[2].public_key} <= set(pull.absorbed.keys)
    _, size, messages = run(asker, asked)
    assert (messages, size < 700) == (2, True)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 12), st.booleans(), st.booleans()), max_size=40))
def test_two_logs_agree_after_pulling_from_each_other(draws: list[tuple[int, int, bool, bool]]) -> None:
    logs = (ClickLog(), ClickLog())
    for log in logs:
        for person in PEOPLE[:4]:
            log.learn_key(person.public_key)
    for who, seq, left, right in draws:
        for log, has in zip(logs, (left, right), strict=True):
            if has:
                log.restore(entry(PEOPLE[who], seq))
    run(*logs, limit=3)
    run(*reversed(logs), limit=3)
    held = [[[one.seq for one in log.entries(p.origin)] for p in PEOPLE[:4]] for log in logs]
    assert held[0] == held[1]
    assert logs[0].digests() == logs[1].digests()


def test_what_came_from_elsewhere_is_not_sent_again() -> None:
    asker, asked = filled(5), filled(6)
    pull, _, _ = run(asker, asked)
    assert [one.seq for one in pull.absorbed.accepted] == [6]
    assert not pull.absorbed.refused


def test_with_a_thousand_origins_one_new_click_stays_cheap() -> None:
    asked, asker = ClickLog(), ClickLog()
    rng = np.random.default_rng(0)
    for _ in range(943):  # the keys are random: nothing here is verified but the one new entry
        key = rng.bytes(32)
        for log in (asked, asker):
            origin = log.learn_key(key)
            assert origin is not None
            log.restore(ClickEntry(origin, 1, "fox", (1,), 0, 0, rng.bytes(64)))
    asked.learn_key(PEOPLE[0].public_key)
    asked.restore(entry(PEOPLE[0], 1))
    pull, size, _ = run(asker, asked)
    assert len(pull.absorbed.accepted) == 1
    assert size < 2_000  # a plain vector of 943 origins has more than 15,000 bytes


def test_every_message_fits_one_control_frame() -> None:
    asked = ClickLog()
    rng = np.random.default_rng(0)
    for _ in range(300):
        origin = asked.learn_key(rng.bytes(32))
        assert origin is not None
        for seq in range(1, 4):
            shown = tuple(int(item) for item in rng.integers(2**63, size=10, dtype=np.uint64))
            query = f"{rng.integers(10**12)} {rng.integers(10**12)} " + "x" * 30
            asked.restore(ClickEntry(origin, seq, query, shown, 0, 0, rng.bytes(64)))
    told = pull_answer(asked, pull_request(ClickLog(), ALL))
    assert told.ask
    assert message_size(told) <= 65_536
    assert MAX_MESSAGE_SIZE < 65_536


def test_proof_of_equivocation_travels_with_a_pull() -> None:
    asked, asker = filled(3, 2), filled(3)
    into = Absorbed()
    asked.receive(entry(PEOPLE[0], 2, item=9).encode(), 0.0, into)
    assert asked.is_condemned(PEOPLE[0].origin)
    pull, _, _ = run(asker, asked)
    assert asker.is_condemned(PEOPLE[0].origin)
    assert [one.seq for one in pull.absorbed.evicted] == [1, 2, 3]
    assert len(pull.absorbed.proofs) == 1
    assert asker.digests() == asked.digests()


def test_a_relay_cannot_forge() -> None:
    asked, asker = filled(1), filled(0)
    told = replace(pull_answer(asked, pull_request(asker, ALL)), s=bytes(64))
    with pytest.raises(WireError, match="wrong signature"):
        absorb(asker, told, 0.0)
    assert len(asker) == 0


def test_a_peer_whose_entries_we_refuse_cannot_keep_us_busy() -> None:
    asked = filled(400, 400)
    asker = filled(0, 0, limits=Limits(burst=10, per_second=0))
    pull, _, messages = run(asker, asked, limit=50)
    assert len(pull.absorbed.accepted) == 20
    assert messages < 20


def test_absorbing_pauses_so_that_a_loop_can_breathe() -> None:
    asked, asker = filled(20), ClickLog()
    into = Absorbed()
    pauses = list(absorb_steps(asker, pull_answer(asked, pull_request(asker, ALL)), 0.0, into, step=5))
    assert len(pauses) == 4
    assert len(into.accepted) == 20


def good() -> dict[str, Any]:
    return body_of(pull_answer(filled(2), pull_request(ClickLog(), ALL)))


BOMB = zlib.compress(bytes(50_000_000))


@pytest.mark.parametrize(
    "change",
    [
        {"t": "clicks!"},
        {"ask": -1},
        {"ask": True},
        {"k": b"short"},
        {"k": "text"},
        {"e": b"not zlib"},
        {"e": BOMB},
        {"e": zlib.compress(b"\x97")},
        {"e": zlib.compress(b"\xc1" * 10)},
        {"e": zlib.compress(b"\x93\x01\x02\x03"), "s": bytes(64)},
        {"s": b""},
        {"s": bytes(64 * 3)},
        {"p": b"\x91\x01"},
        {"p": b"\x93\xa2\xff\xfe\xc0\xc0"},  # text that is no UTF-8
        {"p": b"\x91\xc7\x00\xff"},  # a timestamp of no size
        {"p": b"\xdd\xff\xff\xff\xff"},
    ],
)
def test_hostile_answers_are_refused(change: dict[str, Any]) -> None:
    log = ClickLog()
    with pytest.raises(WireError):
        absorb(log, schema_of(ClickAnswer).read(good() | change), 0.0)
    assert len(log) == 0


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"dig": b"short"},
        {"dig": bytes(512), "t": "clicks?"},
        {"ask": -1, "have": b"", "max": 1},
        {"ask": 1 << 64, "have": b"", "max": 1},
        {"ask": True, "have": b"", "max": 1},
        {"ask": 1, "have": b"torn", "max": 1},
        {"ask": 1, "have": bytes(8) + b"\x00\xff\x01", "max": 1},
        {"ask": 1, "have": "text", "max": 1},
        {"ask": 1, "have": b"", "max": None},
        {"ask": 1, "have": b""},
    ],
)
def test_hostile_requests_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        schema_of(ClickDigest).read(body)
    with pytest.raises(WireError):
        pull_answer(filled(1), schema_of(ClickQuestion).read(body))


def test_an_answer_of_the_other_stage_is_refused() -> None:
    pull = Pull(ClickLog())
    with pytest.raises(WireError, match="something else"):
        finish(pull.take_steps(pull_answer(filled(2), pull_request(ClickLog(), ALL)), 0.0))
    finish(pull.take_steps(answer_digest(filled(2), ClickDigest(ClickLog().digests())), 0.0))
    assert isinstance(pull.request, ClickQuestion)
    with pytest.raises(WireError, match="something else"):
        finish(pull.take_steps(DifferingBuckets(1), 0.0))


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_mutated_answer_never_brings_a_false_entry(position: int, flip: int) -> None:
    raw = bytearray(msgpack.packb(good()))
    raw[position % len(raw)] ^= flip
    log = ClickLog()
    try:
        message = msgpack.unpackb(bytes(raw))
        absorb(log, schema_of(ClickAnswer).read(message if isinstance(message, dict) else {}), 0.0)
    except ValueError:
        pass
    for origin in log.origins:
        key = log.key_of(origin)
        assert key is not None
        assert all(one.verify(key) for one in log.entries(origin))
