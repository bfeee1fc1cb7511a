"""Each reason for which a peer is refused, with the control that passes; sans-I/O, so every byte can be forged."""

import dataclasses
import datetime

import pytest

from flocklet.errors import PeerRefused, WireError
from flocklet.identity.certificate import make_certificate
from flocklet.identity.flock import Flock
from flocklet.identity.key import Identity
from flocklet.link.handshake import Handshake, Nonces, Party
from flocklet.wire.frame import Decoder, encode_hop

SECRET = Flock.closed(b"s" * 16)
ADA, BOB, EVE = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2, 3))


def party(identity, flock=SECRET, **changes):
    return Party(identity, make_certificate(identity), flock, **changes)


def frame(data):
    (found,) = Decoder().feed(data)
    return found


def pair(client, server, *, expected=None, shown=None, nonces=None, may_join=None):
    """Return both sides; `shown` is the certificate that TLS showed the client."""
    certificate = server.certificate if shown is None else shown
    here = Handshake(client, is_server=False, server_certificate=certificate, address="b", expected=expected)
    extra = {} if may_join is None else {"may_join": may_join}
    there = Handshake(
        server, is_server=True, server_certificate=server.certificate, address="a", nonces=nonces, **extra
    )
    return here, there


def run(here, there):
    """Play a handshake; return (client's error, server's error), each also after hearing the other's refusal."""
    errors = [None, None]
    sides = [here, there]
    todo = []
    for index, side in enumerate(sides):
        try:
            todo.append((1 - index, side.start()))
        except PeerRefused as error:
            errors[index] = error
            return errors
    while todo:
        index, data = todo.pop(0)
        if not data or errors[index] is not None:
            continue
        try:
            answer = sides[index].receive(frame(data))
        except PeerRefused as error:
            errors[index] = error
            answer = sides[index].refuse(error)
        todo.append((1 - index, answer))
    return errors


def reasons(here, there):
    errors = run(here, there)
    return [error and error.reason for error in errors]


@pytest.mark.parametrize("flock", [SECRET, Flock.open()])
def test_right_key_and_secret_pass(flock):
    here, there = pair(party(ADA, flock), party(BOB, flock), expected=BOB.device_id)
    assert reasons(here, there) == [None, None]
    assert here.peer.device_id == BOB.device_id
    assert there.peer.device_id == ADA.device_id
    assert here.peer.data_credits == 32
    assert there.peer.version == 2


@pytest.mark.parametrize("other", [Flock.closed(b"t" * 16), Flock.open()])
def test_wrong_flock_is_told_on_both_sides(other):
    assert reasons(*pair(party(ADA, other), party(BOB))) == ["flock", "flock"]
    assert reasons(*pair(party(ADA), party(BOB, other))) == ["flock", "flock"]


class Liar(Flock):
    """Show the tag of another flock, without its secret."""

    @property
    def tags(self):
        return SECRET.tags


def test_copied_tag_without_the_secret_is_refused():
    assert reasons(*pair(party(EVE, Liar(b"x" * 16)), party(BOB))) == ["flock", "flock"]
    assert reasons(*pair(party(ADA), party(EVE, Liar(b"x" * 16)))) == ["flock", "flock"]
    assert reasons(*pair(party(EVE, Liar(None)), party(BOB))) == ["flock", "flock"]


def test_stranger_never_sees_a_mac_of_the_server():
    here, there = pair(party(EVE, Liar(b"x" * 16)), party(BOB))
    proof = here.receive(frame(there.start())) if here.start() else b""
    there.receive(frame(here._own_hello))
    with pytest.raises(PeerRefused) as caught:
        there.receive(frame(proof))
    assert frame(there.refuse(caught.value)).body == {"reason": "flock"}


def test_wrong_server_key():
    here, there = pair(party(ADA), party(BOB), expected=EVE.device_id)
    assert reasons(here, there)[0] == "key"


def test_announced_key_that_is_not_the_certificates():
    forged = dataclasses.replace(party(EVE), certificate=make_certificate(ADA))
    assert reasons(*pair(forged, party(BOB))) == ["key", "key"]
    # The server's hello against the certificate that TLS showed.
    assert reasons(*pair(party(ADA), party(EVE), shown=make_certificate(BOB)))[0] == "key"


class Thief(Identity):
    """Announce Ada's key and sign with another."""

    public_key = ADA.public_key


def test_stolen_id_without_its_key():
    thief = Party(Thief(EVE.seed), make_certificate(ADA), SECRET)
    assert reasons(*pair(thief, party(BOB))) == ["proof", "proof"]


def test_proof_is_bound_to_the_servers_certificate():
    """Eve in the middle: Ada talks TLS with Eve, who passes all messages on to Bob."""
    here, there = pair(party(ADA), party(BOB), shown=make_certificate(EVE))
    assert reasons(here, there)[0] == "key"
    # Even if Ada accepted Eve as Eve, the proof that she sends is worth nothing to Bob.
    eve = Handshake(party(EVE), is_server=True, server_certificate=make_certificate(EVE), address="e")
    here, there = pair(party(ADA), party(BOB), shown=make_certificate(EVE))
    hello = here.start()
    there.start()
    proof = here.receive(frame(eve.start()))
    there.receive(frame(hello))
    with pytest.raises(PeerRefused) as caught:
        there.receive(frame(proof))
    assert caught.value.reason == "proof"


def test_replayed_link_is_refused_at_its_hello_and_at_its_proof():
    nonces = Nonces()
    here, there = pair(party(ADA), party(BOB), nonces=nonces)
    hello = here.start()
    proof = here.receive(frame(there.start()))
    there.receive(frame(hello))
    there.receive(frame(proof))
    assert there.peer is not None  # the control
    again = pair(party(ADA), party(BOB), nonces=nonces)[1]
    again.start()
    with pytest.raises(PeerRefused) as caught:
        again.receive(frame(hello))
    assert caught.value.reason == "replay"
    # A server that forgot (restarted) still refuses: its own nonce is new.
    forgot = pair(party(ADA), party(BOB))[1]
    forgot.start()
    forgot.receive(frame(hello))
    with pytest.raises(PeerRefused) as caught:
        forgot.receive(frame(proof))
    assert caught.value.reason == "proof"


def test_reflected_messages_are_refused():
    here, there = pair(party(ADA), party(BOB))
    here.start()
    with pytest.raises(PeerRefused) as caught:
        there.receive(frame(there.start()))
    assert caught.value.reason == "reflected"
    # Ada's own proof as the server's welcome.
    here, there = pair(party(ADA), party(BOB))
    here.start()
    proof = frame(here.receive(frame(there.start())))
    with pytest.raises(PeerRefused) as caught:
        here.receive(dataclasses.replace(proof, type="welcome"))
    assert caught.value.reason == "reflected"


@pytest.mark.parametrize("which", ["client", "server"])
def test_expired_certificate(which):
    late = make_certificate(EVE, not_after=datetime.datetime(2031, 1, 1, tzinfo=datetime.UTC))
    expired = dataclasses.replace(party(EVE), certificate=late)
    if which == "client":
        assert reasons(*pair(expired, party(BOB))) == ["expired", "expired"]
    else:
        assert reasons(*pair(party(ADA), expired))[0] == "expired"


def test_clone_is_told_on_both_sides_and_only_after_its_proof():
    assert reasons(*pair(party(ADA, run=b"1" * 8), party(ADA, run=b"2" * 8))) == ["clone", "clone"]
    own = party(ADA)
    assert reasons(*pair(own, own)) == ["self", "self"]
    # A stranger with Ada's public key and certificate cannot make Ada believe in a clone.
    thief = Party(Thief(EVE.seed), make_certificate(ADA), SECRET)
    assert reasons(*pair(thief, party(ADA))) == ["proof", "proof"]


@pytest.mark.parametrize(
    ("theirs", "reason"), [((3, 4), "version"), ((1, 1), "version"), ((1, 9), None), ((2, 3), None)]
)
def test_versions(theirs, reason):
    assert reasons(*pair(party(ADA, versions=theirs), party(BOB))) == [reason, reason]


def test_who_may_join_is_asked_after_the_proof():
    asked = []

    def nobody(device_id, run, is_newest):
        asked.append(device_id)
        return "unknown"

    assert reasons(*pair(party(ADA), party(BOB), may_join=nobody)) == ["unknown", "unknown"]
    assert asked == [ADA.device_id]
    thief = Party(Thief(EVE.seed), make_certificate(ADA), SECRET)
    run(*pair(thief, party(BOB), may_join=nobody))
    assert asked == [ADA.device_id]


def test_features_are_the_common_ones():
    ours = party(ADA, compressors=("zstd", "zlib"), schemas=(b"1" * 16, b"2" * 16))
    here, there = pair(ours, party(BOB, schemas=(b"2" * 16,)))
    run(here, there)
    assert here.peer.compressors == there.peer.compressors == ("zlib",)
    assert here.peer.schemas == there.peer.schemas == (b"2" * 16,)


def hello_body():
    here, _ = pair(party(ADA), party(BOB))
    return frame(here.start()).body


@pytest.mark.parametrize("field", list(hello_body()))
@pytest.mark.parametrize("value", [None, -1, b"", "x", [], {}, [1], b"x" * 33, [[1]], [{}]])
def test_every_wrong_field_of_a_hello_is_a_refusal(field, value):
    body = hello_body() | {field: value}
    there = pair(party(ADA), party(BOB))[1]
    there.start()
    try:
        there.receive(frame(encode_hop("hello", body)))
    except (PeerRefused, WireError) as error:
        assert error.reason in ("garbage", "certificate", "flock", "version", "depth")
        return
    assert field in ("compressors", "schemas", "features")  # empty lists are fine
    assert value in ([], {}, "x", b"")


@pytest.mark.parametrize("field", ["signature", "mac", "data", "control"])
@pytest.mark.parametrize("value", [None, -1, 0, b"", "x", [], 1 << 40, True])
def test_every_wrong_field_of_a_proof_is_a_refusal(field, value):
    here, there = pair(party(ADA), party(BOB))
    hello = here.start()
    body = frame(here.receive(frame(there.start()))).body | {field: value}
    there.receive(frame(hello))
    with pytest.raises(PeerRefused) as caught:
        there.receive(frame(encode_hop("proof", body)))
    assert caught.value.reason in ("garbage", "proof", "flock")


@pytest.mark.parametrize("sequence", [["proof"], ["welcome"], ["hello", "hello"], ["hello", "welcome"]])
def test_messages_at_the_wrong_time(sequence):
    there = pair(party(ADA), party(BOB))[1]
    there.start()
    with pytest.raises((PeerRefused, WireError)) as caught:
        for name in sequence:
            there.receive(frame(encode_hop(name, hello_body() if name == "hello" else {})))
    assert caught.value.reason == "order"


def test_refusal_with_an_unknown_code_is_still_a_refusal():
    here, _ = pair(party(ADA), party(BOB))
    for body in ({"reason": "tired"}, {"reason": "fl\nck\x1b[31m"}, {"reason": 5}, {}):
        with pytest.raises(PeerRefused) as caught:
            here.receive(frame(encode_hop("refuse", body)))
        assert here.by_peer
        assert caught.value.reason == "other"  # what a stranger writes is neither logged nor counted


def test_every_change_of_a_recorded_byte_is_refused():
    """Flip each byte of both messages of the client: no variant gets in."""
    here, there = pair(party(ADA), party(BOB))
    hello, servers = here.start(), there.start()
    proof = here.receive(frame(servers))
    for message in (hello, proof):
        for place in range(len(message)):
            bad = bytearray(message)
            bad[place] ^= 0x01
            first, second = (bytes(bad), proof) if message is hello else (hello, bytes(bad))
            server = pair(party(ADA), party(BOB))[1]
            server._nonce, server._own_hello = there._nonce, there._own_hello
            try:
                server.receive(frame(first))
                server.receive(frame(second))
            except (PeerRefused, WireError, ValueError):
                continue
            # Only the credits that the client grants may change: TLS protects those.
            assert message is proof
            assert server.peer.data_credits != 32 or server.peer.control_credits != 64
