"""Device ids that survive typing, keys that survive crashes, certificates that no clock can spoil."""

import datetime
import os
import pickle
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from flocklet.errors import IdentityError, PeerRefused
from flocklet.identity.certificate import certificate_key, load_certificate, make_certificate
from flocklet.identity.flock import Flock
from flocklet.identity.key import Identity, device_id_of, format_id, origin_of, parse_id, short_id, verify
from flocklet.identity.machine import check_machine, machine_hash, note_machine

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


@given(st.binary(min_size=32, max_size=32))
def test_id_text_comes_back_whatever_its_case_and_dashes(device_id):
    text = format_id(device_id)
    assert [len(group) for group in text.split("-")] == [7] * 8
    for typed in (text, text.lower(), text.replace("-", ""), text.replace("-", " "), f" {text}\n"):
        assert parse_id(typed) == device_id


def test_id_text_reads_look_alikes():
    device_id = device_id_of(b"\1" * 32)
    assert parse_id(format_id(device_id).replace("O", "0").replace("I", "1").replace("B", "8")) == device_id


def test_every_wrong_character_is_found_and_named_by_group():
    text = format_id(device_id_of(bytes(32)))
    letters = text.replace("-", "")
    for place, right in enumerate(letters):
        for wrong in ALPHABET:
            if wrong == right:
                continue
            with pytest.raises(IdentityError) as caught:
                parse_id(letters[:place] + wrong + letters[place + 1 :])
            first = place // 14 * 2 + 1
            assert f"groups {first} and {first + 1}" in str(caught.value)


@pytest.mark.parametrize(
    ("typed", "says"),
    [("", "0 characters"), ("ABC", "3 characters"), ("!" * 56, "group 1"), ("A" * 1000, "too long")],
)
def test_a_text_that_is_no_id_gets_one_line(typed, says):
    with pytest.raises(IdentityError, match=says) as caught:
        parse_id(typed)
    assert "\n" not in str(caught.value)


@given(st.binary(min_size=16, max_size=16))
def test_invitation_comes_back(secret):
    flock = Flock.closed(secret)
    assert Flock.from_invite(flock.invite().lower()) == flock
    assert flock.tag == Flock.from_invite(flock.invite()).tag
    assert secret.hex() not in flock.tag
    assert repr(secret) not in repr(flock)


def test_mistyped_invitation_names_the_group():
    text = Flock.closed(bytes(16)).invite()
    with pytest.raises(IdentityError, match="groups 3 and 4"):
        Flock.from_invite(text[:-3] + ("B" if text[-3] != "B" else "C") + text[-2:])
    with pytest.raises(IdentityError, match="characters"):
        Flock.from_invite(format_id(bytes(32)))


def test_open_flock_has_a_known_tag_and_no_invitation():
    assert Flock.open().tag == Flock.open().tag == "open"
    with pytest.raises(IdentityError):
        Flock.open().invite()


def test_flock_proof_needs_the_secret():
    ours, other = Flock.closed(b"a" * 16), Flock.closed(b"b" * 16)
    assert ours.rank_of(ours.prove(b"words"), b"words") == 0
    assert ours.rank_of(other.prove(b"words"), b"words") is None
    assert ours.rank_of(ours.prove(b"words"), b"other words") is None
    assert ours.rank_of(b"", b"words") is None
    assert ours.tag != other.tag


def test_signature_holds_for_its_message_and_key_only():
    identity, other = Identity.from_seed(bytes(32)), Identity.generate()
    signature = identity.sign(b"message")
    assert verify(identity.public_key, signature, b"message")
    assert not verify(identity.public_key, signature, b"massage")
    assert not verify(other.public_key, signature, b"message")
    assert not verify(b"short", signature, b"message")
    assert not verify(identity.public_key, b"", b"message")


def test_derived_names():
    identity = Identity.from_seed(bytes(32))
    assert identity.device_id == device_id_of(identity.public_key)
    assert identity.origin == origin_of(identity.public_key) == identity.device_id[:16]
    assert short_id(identity.device_id) == identity.device_id.hex()[:12]


def test_key_is_never_shown_or_pickled():
    identity = Identity.from_seed(b"s" * 32)
    assert "ssss" not in repr(identity)
    with pytest.raises(TypeError):
        pickle.dumps(identity)


def test_saved_key_comes_back_and_is_private(tmp_path):
    identity = Identity.generate()
    identity.save(tmp_path / "key.pem")
    assert Identity.load(tmp_path / "key.pem") == identity
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key.pem"]


def test_saved_key_is_never_overwritten(tmp_path):
    first = Identity.generate()
    first.save(tmp_path / "key.pem")
    with pytest.raises(IdentityError, match="not overwritten"):
        Identity.generate().save(tmp_path / "key.pem")
    assert Identity.load(tmp_path / "key.pem") == first
    assert [path.name for path in tmp_path.iterdir()] == ["key.pem"]


def test_failed_save_leaves_nothing(tmp_path, monkeypatch):
    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(IdentityError, match="No space left"):
        Identity.generate().save(tmp_path / "key.pem")
    assert list(tmp_path.iterdir()) == []


def test_key_that_others_can_read_is_refused(tmp_path):
    path = tmp_path / "key.pem"
    Identity.generate().save(path)
    path.chmod(0o644)
    with pytest.raises(IdentityError) as caught:
        Identity.load(path)
    assert caught.value.remedy.startswith("chmod 600")


@pytest.mark.parametrize("content", [b"", b"no key", b"x" * 10_000])
def test_damaged_key_is_one_line(tmp_path, content):
    path = tmp_path / "key.pem"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(IdentityError, match=r"key\.pem"):
        Identity.load(path)
    with pytest.raises(IdentityError, match="cannot read"):
        Identity.load(tmp_path / "missing.pem")


def test_certificate_carries_the_key_and_is_reproducible():
    identity = Identity.from_seed(bytes(32))
    der = make_certificate(identity)
    assert certificate_key(der) == identity.public_key
    assert der == make_certificate(identity)


@pytest.mark.parametrize(
    "window",
    [
        {"not_after": datetime.datetime(2031, 1, 1, tzinfo=datetime.UTC)},
        {"not_before": datetime.datetime(1999, 1, 1, tzinfo=datetime.UTC)},
    ],
)
def test_certificate_with_dates_of_its_own_is_expired_for_every_clock(window):
    with pytest.raises(PeerRefused) as caught:
        certificate_key(make_certificate(Identity.generate(), **window))
    assert caught.value.reason == "expired"


def build(key, signer, *extensions):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key).serial_number(1)
    builder = builder.not_valid_before(datetime.datetime(1970, 1, 1))
    builder = builder.not_valid_after(datetime.datetime(9999, 12, 31, 23, 59, 59))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    algorithm = SHA256() if isinstance(signer, ec.EllipticCurvePrivateKey) else None
    return builder.sign(signer, algorithm).public_bytes(Encoding.DER)


def test_key_planted_in_an_extension_is_not_the_key():
    mine, victim = Ed25519PrivateKey.generate(), Identity.generate()
    planted = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), victim.public_key)
    der = build(mine.public_key(), mine, planted)
    assert victim.public_key in der
    assert certificate_key(der) == mine.public_key().public_bytes_raw()


def test_certificates_of_another_kind_are_refused():
    mine, other, curve = (
        Ed25519PrivateKey.generate(),
        Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP256R1()),
    )
    good = build(mine.public_key(), mine)
    assert certificate_key(good) == mine.public_key().public_bytes_raw()  # the control
    for der in (
        build(mine.public_key(), other),  # not signed by its own key
        build(curve.public_key(), curve),  # not Ed25519
        good + b"\0",
        good[:-1],
        b"",
        b"\x30" * 5000,
    ):
        with pytest.raises(PeerRefused) as caught:
            certificate_key(der)
        assert caught.value.reason == "certificate"


def test_certificate_is_kept_and_remade_only_on_purpose(tmp_path):
    identity = Identity.generate()
    der = load_certificate(tmp_path / "cert.der", identity)
    assert load_certificate(tmp_path / "cert.der", identity) == der
    with pytest.raises(IdentityError, match="another key"):
        load_certificate(tmp_path / "cert.der", Identity.generate())


def test_copied_disk_is_noticed(tmp_path):
    here, there, key = tmp_path / "here", tmp_path / "there", tmp_path / "key.pem"
    here.write_text("1111\n")
    there.write_text("2222\n")
    check_machine(key, [here])  # nothing was noted yet
    note_machine(key, [here])
    check_machine(key, [here])
    check_machine(key, [tmp_path / "none"])  # a machine without an id cannot tell
    with pytest.raises(IdentityError, match="copied") as caught:
        check_machine(key, [there])
    assert "--rotate" in caught.value.remedy
    note_machine(key, [there])  # the owner said: keep
    check_machine(key, [there])
    assert "1111" not in (machine_hash([here]) or "")
    assert (tmp_path / "key.machine").read_text() == machine_hash([there])
