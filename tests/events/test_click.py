"""A click entry has one encoding, limits that hold before parsing, and a signature over everything else."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flocklet.errors import WireError
from flocklet.events.click import MAX_ENTRY_SIZE, NO_CLICK, ClickEntry, normalise_query
from flocklet.identity.key import Identity

ANNA = Identity.from_seed(b"a" * 32)
BERT = Identity.from_seed(b"b" * 32)


def entry(**changes: object) -> ClickEntry:
    fields = {"seq": 1, "query": "brown fox", "shown": (7, 2**64 - 1), "clicked": 1, "ts": 1_700_000_000}
    return ClickEntry.signed(ANNA, **(fields | changes))  # type: ignore[arg-type]


@given(
    seq=st.integers(1, 2**32 - 1),
    query=st.text(min_size=1, max_size=80).filter(normalise_query),
    shown=st.lists(st.integers(0, 2**64 - 1), max_size=10, unique=True),
    ts=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_what_is_encoded_is_decoded_and_verifies(
    seq: int, query: str, shown: list[int], ts: int, data: st.DataObject
) -> None:
    clicked = data.draw(st.sampled_from([*range(len(shown)), NO_CLICK]))
    made = ClickEntry.signed(ANNA, seq=seq, query=query, shown=tuple(shown), clicked=clicked, ts=ts)
    assert len(made.encode()) <= MAX_ENTRY_SIZE
    read = ClickEntry.decode(made.encode())
    assert read == made
    assert read.verify(ANNA.public_key)
    assert not read.verify(BERT.public_key)


def test_the_layout_is_the_one_of_the_protocol() -> None:
    made = entry()
    assert msgpack.unpackb(made.encode()) == [
        1,
        ANNA.origin,
        1,
        "brown fox",
        [7, 2**64 - 1],
        1,
        1_700_000_000,
        made.signature,
    ]
    assert len(entry(shown=tuple(range(2**63, 2**63 + 10)), query="x" * 64).encode()) <= 260


@given(st.text(max_size=200))
def test_normal_form_is_a_fixed_point_within_the_limit(text: str) -> None:
    normal = normalise_query(text)
    assert normalise_query(normal) == normal
    assert len(normal.encode()) <= 64


def test_queries_that_look_the_same_are_the_same() -> None:
    assert normalise_query("  Brown\tFOX ") == normalise_query("brown fox") == "brown fox"
    assert normalise_query("CAFE\u0301") == normalise_query("café")
    assert normalise_query("Straße") == normalise_query("STRASSE")


@pytest.mark.parametrize(
    "change",
    [
        {"seq": 0},
        {"seq": 2**32},
        {"query": ""},
        {"shown": tuple(range(11))},
        {"shown": (1, 1)},
        {"shown": (-1,)},
        {"shown": (2**64,)},
        {"shown": (True, 2)},
        {"clicked": 2},
        {"clicked": 254},
        {"clicked": True},
        {"ts": -1},
        {"ts": 2**32},
    ],
)
def test_values_out_of_range_cannot_be_made(change: dict[str, object]) -> None:
    with pytest.raises(WireError):
        entry(**change)


@pytest.mark.parametrize(
    "values",
    [
        None,
        [],
        [1] * 8,
        [2, bytes(16), 1, "q", [1], 0, 0, bytes(64)],
        [1, bytes(15), 1, "q", [1], 0, 0, bytes(64)],
        [1, bytes(16), 1, "Q", [1], 0, 0, bytes(64)],
        [1, bytes(16), 1, "q", [1.0], 0, 0, bytes(64)],
        [1, bytes(16), 1, "q", [[1]], 0, 0, bytes(64)],
        [1, bytes(16), 1, "q", {"a": 1}, 0, 0, bytes(64)],
        [1, bytes(16), 1, "q", [1], 0, 0, bytes(63)],
        [1, bytes(16), 1, "q", [1], 0, 0, bytes(64), 0],
        [1, bytes(16), 1, "q\x00", [1], 0, 0, bytes(64)],
        [True, bytes(16), 1, "q", [1], 0, 0, bytes(64)],
    ],
)
def test_other_arrays_are_refused(values: object) -> None:
    with pytest.raises(WireError):
        ClickEntry.decode(msgpack.packb(values))


def test_a_longer_encoding_of_the_same_values_is_refused() -> None:
    raw = entry(seq=5).encode()
    at = raw.index(b"\x05", 20)
    long_form = raw[:at] + b"\xcc\x05" + raw[at + 1 :]
    assert msgpack.unpackb(long_form) == msgpack.unpackb(raw)
    with pytest.raises(WireError, match="shortest form"):
        ClickEntry.decode(long_form)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_raise_only_wire_errors(data: bytes) -> None:
    with pytest.raises(WireError):
        ClickEntry.decode(data)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_every_changed_byte_is_noticed(position: int, flip: int) -> None:
    raw = bytearray(entry().encode())
    raw[position % len(raw)] ^= flip
    try:
        read = ClickEntry.decode(bytes(raw))
    except WireError:
        return
    assert not read.verify(ANNA.public_key)
