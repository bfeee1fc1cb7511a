"""Signed edges: one encoding, honest limits, forged and replayed ones refused, and an exchange that converges."""

from __future__ import annotations

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flocklet.errors import WireError
from flocklet.events.edge import MAX_PAGE_EDGES, Edge, read_page, sign_edge, sign_page
from flocklet.events.edge_pool import EdgePool
from flocklet.events.edge_sync import Absorbed, EdgeAnswer, EdgeQuestion, absorb_steps, answer_steps
from flocklet.events.edge_sync import question as request
from flocklet.events.feed import finish
from flocklet.identity.key import Identity
from flocklet.wire.schema import body_of, schema_of

ANNA, BERT, EVE = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
SALT = bytes(8)


def test_an_edge_is_read_back_as_it_was_signed() -> None:
    page = sign_edge(ANNA, 2**63 + 5, 0.8, 1_700_000_000)
    again = read_page(page.raw)
    assert again == page
    assert again.edges[0] == Edge(ANNA.origin, 2**63 + 5, float(np.float16(0.8)), 1_700_000_000)
    assert again.is_signed_by(ANNA.public_key)
    assert len(page.raw) < 120


@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(0, 2**64 - 1), st.binary(min_size=16, max_size=16)),
            st.floats(0, 1),
            st.integers(0, 2**32 - 1),
        ),
        min_size=1,
        max_size=MAX_PAGE_EDGES,
    )
)
def test_a_page_is_read_back_as_it_was_signed(rows: list[tuple[bytes | int, float, int]]) -> None:
    page = sign_page(ANNA, rows)
    assert read_page(page.raw) == page
    assert page.is_signed_by(ANNA.public_key)


def test_a_changed_weight_or_another_author_is_a_forgery() -> None:
    page = sign_page(ANNA, [(BERT.origin, 0.5, 7), (99, 1.0, 7)])
    for at in range(len(page.raw)):
        changed = bytearray(page.raw)
        changed[at] ^= 1
        try:
            forged = read_page(bytes(changed))
        except WireError:
            continue
        assert not forged.is_signed_by(ANNA.public_key)
    stolen = page.raw.replace(ANNA.origin, EVE.origin)
    assert not read_page(stolen).is_signed_by(EVE.public_key)


@pytest.mark.parametrize(
    "values",
    [
        [1, bytes(15), 5, 0.5, 7, bytes(64)],
        [1, bytes(16), 5, -0.5, 7, bytes(64)],
        [1, bytes(16), 5, 1.5, 7, bytes(64)],
        [1, bytes(16), 5, float("nan"), 7, bytes(64)],
        [1, bytes(16), -5, 0.5, 7, bytes(64)],
        [1, bytes(16), bytes(16), 0.5, 7, bytes(64)],
        [1, bytes(16), 5, 0.5, 2**32, bytes(64)],
        [1, bytes(16), 5, 0.5, 7, bytes(63)],
        [3, bytes(16), 5, 0.5, 7, bytes(64)],
        [2, bytes(16), b"", bytes(64)],
        [2, bytes(16), bytes(24), bytes(64)],
        [2, bytes(16), bytes(23), bytes(64)],
        {"a": 1},
        7,
    ],
)
def test_what_no_honest_peer_sends_is_a_wire_error(values: object) -> None:
    with pytest.raises(WireError):
        read_page(msgpack.packb(values, use_single_float=True))


@given(st.binary(max_size=300))
def test_any_bytes_give_a_page_or_a_wire_error(data: bytes) -> None:
    with pytest.raises(WireError):
        read_page(data)


def test_a_longer_spelling_of_the_same_edge_is_refused() -> None:
    page = sign_edge(ANNA, 5, 0.5, 7)
    values = msgpack.unpackb(page.raw)
    with pytest.raises(WireError, match="shortest"):
        read_page(msgpack.packb(values))  # the weight as a double


def test_a_whole_number_is_no_second_spelling_of_a_weight() -> None:
    page = sign_edge(ANNA, 5, 1.0, 9)
    values = msgpack.unpackb(page.raw, use_list=False)
    assert msgpack.packb(values, use_single_float=True) == page.raw  # the control: its only spelling
    for weight in (1, True):
        other = msgpack.packb([*values[:3], weight, *values[4:]], use_single_float=True)
        with pytest.raises(WireError):
            read_page(other)


def answer(pool: EdgePool, asked: EdgeQuestion, rng: np.random.Generator) -> EdgeAnswer:
    return finish(answer_steps(pool, asked, rng))


def absorb(told: EdgeAnswer) -> Absorbed:
    got = Absorbed()
    finish(absorb_steps(told, got))
    return got


def pools(*authors: Identity) -> EdgePool:
    pool = EdgePool()
    for author in authors:
        for number in range(3):
            pool.put(sign_edge(author, number, 0.9, 100 + number), author.public_key)
    return pool


def exchange(ours: EdgePool, theirs: EdgePool, rng: np.random.Generator) -> int:
    got = absorb(answer(theirs, request(ours, SALT), rng))
    for page in got.pages:
        ours.put(page, got.keys[page.src])
    return len(got.pages)


def test_an_exchange_brings_what_is_missing_and_nothing_twice() -> None:
    ours, theirs = pools(ANNA), pools(ANNA, BERT)
    rng = np.random.default_rng(1)
    assert exchange(ours, theirs, rng) == 3
    assert ours.pages.keys() == theirs.pages.keys()
    assert exchange(ours, theirs, rng) == 0


def test_an_answer_with_a_forged_page_is_refused_as_a_whole() -> None:
    theirs = pools(ANNA)
    theirs.pages[ANNA.origin][0] = (
        200,
        read_page(sign_edge(EVE, 1, 1.0, 1).raw).raw.replace(EVE.origin, ANNA.origin),
    )
    with pytest.raises(WireError, match="signature"):
        absorb(answer(theirs, request(EdgePool(), SALT), np.random.default_rng(1)))


def test_malformed_messages_are_wire_errors() -> None:
    good = request(EdgePool(), SALT)
    for change in (
        {"salt": b""},
        {"have": b"abc"},
        {"max": 99},
        {"max": "9"},
        {"max": True},
        {"t": "x"},
        {"have": bytes(40_000)},
        {"want": bytes(7)},
    ):
        with pytest.raises(WireError):
            schema_of(EdgeQuestion).read({**body_of(good), **change})
    fine = answer(pools(ANNA), good, np.random.default_rng(1))
    for change in (
        {"k": b""},
        {"k": bytes(31)},
        {"p": fine.p + b"\xc1"},
        {"p": "x"},
        {"p": bytes(60_000)},
    ):
        with pytest.raises(WireError):
            absorb(schema_of(EdgeAnswer).read({**body_of(fine), **change}))


def test_newer_sources_are_told_first_more_often() -> None:
    pool = EdgePool()
    people = [Identity.from_seed(bytes([n]) * 32) for n in range(1, 41)]
    for ts, who in enumerate(people):
        pool.put(sign_edge(who, 1, 0.9, ts), who.public_key)
    rng = np.random.default_rng(5)
    first = [
        read_page(absorb(answer(pool, request(EdgePool(), SALT, most=1), rng)).pages[0].raw)
        for _ in range(400)
    ]
    newer = np.mean([page.edges[0].ts >= 20 for page in first])
    assert 0.65 < newer < 0.85  # linear in recency: 0.744
