"""Keys that anybody can sign with are refused; the list of them is derived here from the equation of the curve."""

from __future__ import annotations

import os

import pytest

from flocklet.errors import PeerRefused
from flocklet.identity.certificate import make_certificate
from flocklet.identity.flock import Flock
from flocklet.identity.key import Identity, is_small_order, verify
from flocklet.link.handshake import Handshake, Party
from flocklet.wire.frame import Decoder

P = 2**255 - 19
D = -121665 * pow(121666, P - 2, P) % P  # -x^2 + y^2 = 1 + D x^2 y^2 (RFC 8032, section 5.1)
ORDER = 2**252 + 27742317777372353535851937790883648493
Point = tuple[int, int]


def x_of(y: int) -> int | None:
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    return None if (x * x - square) % P else x


def add(a: Point, b: Point) -> Point:
    t = D * a[0] * b[0] * a[1] * b[1] % P
    x = (a[0] * b[1] + b[0] * a[1]) * pow(1 + t, P - 2, P)
    y = (a[1] * b[1] + a[0] * b[0]) * pow(1 - t, P - 2, P)
    return x % P, y % P


def times(number: int, point: Point) -> Point:
    found = (0, 1)
    while number:
        if number & 1:
            found = add(found, point)
        point, number = add(point, point), number >> 1
    return found


def small_order_ys() -> set[int]:
    """Multiply points by the order of the large subgroup: what is left has order 1, 2, 4 or 8."""
    found: set[int] = set()
    for y in range(2, 40):
        if (x := x_of(y)) is not None:
            rest = times(ORDER, (x, y))
            found |= {times(k, rest)[1] for k in range(8)}
    return found | {y + P for y in found if y + P < 1 << 255}  # encodings that are not the shortest


def encodings() -> list[bytes]:
    return [
        bytes([*low[:31], low[31] | sign])
        for y in small_order_ys()
        for low in [y.to_bytes(32, "little")]
        for sign in (0, 0x80)
    ]


def test_all_fourteen_encodings_are_known() -> None:
    assert len(small_order_ys()) == 7
    assert len(set(encodings())) == 14
    assert all(is_small_order(key) for key in encodings())


def test_honest_keys_and_other_lengths_are_not() -> None:
    assert not any(is_small_order(Identity.from_seed(os.urandom(32)).public_key) for _ in range(50))
    assert not any(is_small_order(size * b"\0") for size in (0, 31, 33))


def test_a_forged_signature_that_the_library_takes_is_refused() -> None:
    """The control is the library itself: R = A, S = 0 holds for about one message in eight, without any private key."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    taken = 0
    for key in encodings():
        for number in range(24):
            for nonce in (key, b"\x01" + bytes(31)):
                message, forged = number.to_bytes(4, "big"), nonce + bytes(32)
                try:
                    Ed25519PublicKey.from_public_bytes(key).verify(forged, message)
                    taken += 1
                except (InvalidSignature, ValueError):
                    pass
                assert not verify(key, forged, message)
    assert taken > 20


def test_a_hello_with_such_a_key_is_refused() -> None:
    ada, bob = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2))

    class Nobody(Identity):
        public_key = encodings()[0]

    flock = Flock.closed(b"s" * 16)
    here = Handshake(
        Party(Nobody(ada.seed), make_certificate(ada), flock),
        is_server=False, server_certificate=make_certificate(bob), address="b",
    )  # fmt: skip
    there = Handshake(
        Party(bob, make_certificate(bob), flock),
        is_server=True,
        server_certificate=make_certificate(bob),
        address="a",
    )
    there.start()
    (hello,) = Decoder().feed(here.start())
    with pytest.raises(PeerRefused) as caught:
        there.receive(hello)
    assert caught.value.reason == "key"
    assert "anybody can sign" in str(caught.value)  # and not for its certificate, which is judged later
