"""The schema of a message: what is taken, and every way in which a field can be wrong."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import msgpack
import numpy as np
import pytest

from flocklet.errors import WireError
from flocklet.wire.body import pack_body
from flocklet.wire.door import Door
from flocklet.wire.kinds import Kind, Role, Size
from flocklet.wire.schema import Many, Schema, Tensors, Within, body_of, schema_of

Row = tuple[Annotated[str, Within(1, 8)], Annotated[int, Within(0, 9)]]


@dataclass(frozen=True, slots=True)
class Question:
    kind: ClassVar[str] = "notes?"
    salt: Annotated[bytes, Within(8, 8)]
    have: Annotated[bytes, Within(0, 16, step=4)]
    most: Annotated[int, Within(0, 16)]
    in_: bool
    since: Annotated[int, Within(1, 9)] | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    kind: ClassVar[str] = "notes!"
    names: Annotated[tuple[str, ...], Many(2), Within(1, 4)]
    rows: Annotated[tuple[Row, ...], Many(3)]
    share: Annotated[float, Within(0, 1)]


@dataclass(frozen=True, slots=True)
class Trained:
    kind: ClassVar[str] = "made"
    c: Annotated[int, Within(0, 9)]
    tensors: Tensors


GOOD: Mapping[str, Any] = {"salt": bytes(8), "have": bytes(4), "most": 3, "in": True}
KINDS = (Kind.of(Question), Kind.of(Rows), Kind.of(Trained, Role.AUTHOR, Size.DATA))


def door() -> Door:
    return Door(KINDS)


def test_a_message_comes_back_as_it_was_sent() -> None:
    here = door()
    for message in (
        Question(bytes(8), b"abcd", 16, False),
        Question(bytes(8), b"", 0, True, since=9),
        Rows(("a", "bü"), (("x", 1), ("y", 9)), 0.5),
    ):
        packed = pack_body(body_of(message))
        assert here.read(here.kind(message.kind), packed) == message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("salt", bytes(7)), ("salt", "abcdefgh"), ("salt", [1] * 8), ("salt", None), ("have", bytes(5)),
        ("have", bytes(20)), ("most", 17), ("most", -1), ("most", True), ("most", 3.0), ("most", "3"), ("in", 1),
        ("in", None), ("since", 0), ("since", None), ("since", False), ("more", 1), ("most", {}), ("most", [[]]),
    ],
)  # fmt: skip
def test_each_wrong_field_is_refused_by_name(field: str, value: Any) -> None:
    schema_of(Question).read(GOOD)  # the control
    with pytest.raises(WireError) as caught:
        schema_of(Question).read({**GOOD, field: value})
    assert caught.value.reason == "field"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", GOOD)
def test_each_missing_field_is_refused(field: str) -> None:
    with pytest.raises(WireError, match=f"'{field}' is missing"):
        schema_of(Question).read({key: value for key, value in GOOD.items() if key != field})


@pytest.mark.parametrize(
    "body",
    [
        {"names": ["abcde"], "rows": [], "share": 0.1}, {"names": ["a"] * 3, "rows": [], "share": 0.1},
        {"names": [], "rows": [["x"]], "share": 0.1}, {"names": [], "rows": [["x", 10]], "share": 0.1},
        {"names": [], "rows": [], "share": 1}, {"names": [], "rows": [], "share": 1.5},
        {"names": "ab", "rows": [], "share": 0.1}, {"names": [b"a"], "rows": [], "share": 0.1},
    ],
)  # fmt: skip
def test_wrong_lists_are_refused(body: Mapping[str, Any]) -> None:
    with pytest.raises(WireError) as caught:
        schema_of(Rows).read(body)
    assert caught.value.reason == "field"


def test_what_no_peer_would_take_is_not_sent() -> None:
    with pytest.raises(WireError, match="cannot be sent"):
        body_of(Question(bytes(3), b"", 1, True))
    with pytest.raises(WireError, match="name of a field"):
        body_of(Trained(1, {"c": np.ones(2, np.float32)}))


def test_arrays_come_only_after_their_layout_was_announced() -> None:
    here = door()
    kind = here.kind("made")
    packed = pack_body(body_of(Trained(1, {"w": np.ones((2, 3), np.float32)})))
    with pytest.raises(WireError):
        here.read(kind, packed)
    here.expect("made", {"w": (2, 3), "b": (3,)})
    read = here.read(kind, packed)
    assert read.tensors["w"].shape == (2, 3)
    for wrong in ({"w": (3, 2)}, {"v": (2, 3)}, {"w": (2, 4)}):
        here.expect("made", wrong)
        with pytest.raises(WireError):
            here.read(kind, packed)
    here.expect("made", None)
    with pytest.raises(WireError):
        here.read(kind, packed)
    assert sum(here.refused.values()) == 5


def test_a_flat_kind_refuses_containers_before_it_decodes_them() -> None:
    here = door()
    kind = here.kind("notes?")
    bombs = (b"\x90" * 60_000, b"\x80" * 60_000, b"\x91" * 60_000, b"\xdd\xff\xff\xff\xff" + b"\x90" * 9)
    for bomb in bombs:
        with pytest.raises(WireError) as caught:
            here.read(kind, b"\x81\xa4salt" + bomb)
        assert caught.value.reason == "msgpack"
    for bad in (
        b"",
        b"\x90",
        b"\x84\xa4salt",
        b"\x81\xa4salt\xc7\x00\x01",
        b"\x81\xa4salt\xc7\x00\xff",
        b"\x81\xa2v\xff\xc0",
    ):
        with pytest.raises(WireError):
            here.read(kind, bad)
    twice = b"\x82" + 2 * (msgpack.packb("most") + b"\x01")
    with pytest.raises(WireError, match="twice"):
        here.read(kind, twice)
    with pytest.raises(WireError, match="follow"):
        here.read(kind, msgpack.packb(dict(GOOD)) + b"\xc0")


def test_classes_that_cannot_travel_are_found_when_the_door_is_built() -> None:
    @dataclass(frozen=True)
    class Unbounded:
        kind: ClassVar[str] = "x"
        size: int

    @dataclass(frozen=True)
    class Loose:
        kind: ClassVar[str] = "x"
        many: tuple[bool, ...]

    for wrong in (Unbounded, Loose):
        with pytest.raises(TypeError):
            Schema(wrong)
    with pytest.raises(TypeError, match="two kinds"):
        Door([*KINDS, Kind.of(Question, Role.REQUEST, answers=("ok",))])
    with pytest.raises(TypeError, match="what part"):
        Kind.of(Trained)


def test_the_announced_size_is_known_before_anything_is_inflated() -> None:
    here = door()
    assert here.announced_bytes(here.kind("notes?"), 500) == 500
    before = here.announced_bytes(here.kind("made"), 500)
    here.expect("made", {"w": (1000, 1000)})
    assert here.announced_bytes(here.kind("made"), 500) == before + 8_000_000
