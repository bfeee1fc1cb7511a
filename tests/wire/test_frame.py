"""Frames: they come back whole, in whatever pieces; anything else is a WireError before it costs memory."""

import struct
import tracemalloc
import zlib

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from flocklet.errors import SchemaMismatch, WireError
from flocklet.identity.key import Identity
from flocklet.link.replay import ReplayWindow
from flocklet.wire.arrays import (
    DEFLATED_DENSE,
    DEFLATED_SPARSE,
    Deflated,
    Quantised,
    Sparse,
    decode_array,
    encode_array,
)
from flocklet.wire.frame import (
    CONTROL_LIMITS,
    DATA_LIMITS,
    HANDSHAKE_LIMITS,
    MESSAGES,
    Decoder,
    Limits,
    Size,
    content_id,
    encode_hop,
    frame_type,
    open_frame,
    pack_body,
    seal,
    unpack_body,
)

ME = Identity.from_seed(b"\1" * 32)
RUN = b"r" * 8

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.binary(max_size=40)
)
keys = st.text(max_size=8) | st.binary(max_size=16) | st.integers(0, 2**32)
values = scalars | st.lists(scalars, max_size=5) | st.dictionaries(keys, scalars, max_size=5)
bodies = st.dictionaries(st.text(max_size=8), values, max_size=6)


def refused(reason, data, limits=DATA_LIMITS, error=WireError):
    with pytest.raises(error) as caught:
        unpack_body(data, limits)
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)


def body_bytes(value):
    return msgpack.packb({"k": value})


@given(bodies, st.lists(st.integers(1, 60), max_size=8))
def test_hop_message_comes_back_in_any_pieces(body, cuts):
    data = encode_hop("offer", body, rid=7) * 2
    decoder, found, at = Decoder(is_open=True), [], 0
    for cut in [*cuts, len(data)]:
        found += decoder.feed(data[at : at + cut])
        at += cut
    assert [frame.body for frame in found] == [body, body]
    assert found[0].header == {"v": 2, "type": "offer", "rid": 7}
    assert not found[0].is_authored
    assert decoder.buffered == 0


@settings(deadline=None)
@given(bodies, st.integers(0, 2**64 - 1))
def test_author_message_comes_back_signed(body, seq):
    data = seal(ME, "send", body, run=RUN, seq=seq, round=3, codec="int8")
    frame = open_frame(data)
    assert frame.body == body
    assert frame.is_authored
    assert frame.author == ME.device_id
    assert (frame.header["seq"], frame.header["round"], frame.header["codec"]) == (seq, 3, "int8")
    assert frame.raw == data
    assert frame.id == content_id(data)
    assert frame_type(data) == "send"


def test_frame_cut_at_every_byte_waits_and_then_comes():
    data = seal(ME, "gossip", {"w": np.arange(4, dtype=np.float32)}, run=RUN, seq=1)
    for cut in range(len(data)):
        decoder = Decoder(is_open=True)
        assert decoder.feed(data[:cut]) == []
        (frame,) = decoder.feed(data[cut:])
        assert frame.body["w"].tolist() == [0, 1, 2, 3]
        with pytest.raises(WireError):
            open_frame(data[:cut])


def test_every_changed_byte_of_an_author_message_is_refused():
    data = seal(ME, "vote", {"for": b"x" * 16}, run=RUN, seq=1)
    open_frame(data)  # the control
    for place in range(len(data)):
        for flip in (1, 0x80):
            bad = bytearray(data)
            bad[place] ^= flip
            with pytest.raises(WireError):
                open_frame(bytes(bad))


def test_author_cannot_be_exchanged():
    other = Identity.generate()
    data = seal(ME, "vote", {}, run=RUN, seq=1)
    bad = data.replace(ME.public_key, other.public_key)
    assert len(bad) == len(data)
    with pytest.raises(WireError) as caught:
        open_frame(bad)
    assert caught.value.reason == "signature"


def test_signature_is_decided_by_the_type_not_by_the_sender():
    with pytest.raises(WireError):
        encode_hop("send", {})
    with pytest.raises(WireError):
        seal(ME, "chunk!", {}, run=RUN, seq=1)
    # An author message without a signature, and a hop message that claims an author.
    header = msgpack.packb({"v": 2, "type": "vote", "run": RUN, "src": ME.public_key, "seq": 1})
    for head, body in (
        (header, msgpack.packb({})),
        (msgpack.packb({"v": 2, "type": "offer", "src": ME.public_key}), msgpack.packb({})),
    ):
        data = struct.pack(">IH", 2 + len(head) + len(body), len(head)) + head + body
        with pytest.raises(WireError) as caught:
            open_frame(data)
        assert caught.value.reason in ("length", "header")


@pytest.mark.parametrize(
    ("is_open", "length", "header", "reason"),
    [
        (False, HANDSHAKE_LIMITS.max_bytes + 1, 20, "length"),
        (True, DATA_LIMITS.max_bytes + 1, 20, "length"),
        (True, 0xFFFFFFFF, 20, "length"),
        (True, 1000, 0, "length"),
        (True, 1000, 600, "length"),
        (True, 10, 9, "length"),
        (True, 0, 1, "length"),
    ],
)
def test_lengths_are_judged_from_six_bytes(is_open, length, header, reason):
    decoder = Decoder(is_open=is_open)
    before = len(decoder.room())
    with pytest.raises(WireError) as caught:
        decoder.feed(struct.pack(">IH", length, header))
    assert caught.value.reason == reason
    assert decoder.is_fatal
    assert len(decoder._buffer) <= before  # nothing was set aside for the announced length
    with pytest.raises(WireError):
        decoder.next_frame()


def test_each_size_has_its_limit_judged_from_the_header():
    too_long = 70_000
    for name, message in MESSAGES.items():
        if message.size is not Size.CONTROL or message.is_authored:
            continue
        header = msgpack.packb({"v": 2, "type": name})
        decoder = Decoder(is_open=True)
        with pytest.raises(WireError, match="at most 65536"):
            decoder.feed(struct.pack(">IH", too_long, len(header)) + header)
        assert decoder.is_fatal
    # The control: a data message of that size passes.
    assert open_frame(encode_hop("chunk!", {"data": bytes(too_long)})).body["data"] == bytes(too_long)


def test_a_stranger_gets_4_kib_whatever_it_announces():
    for length in (4096, 64):
        header = msgpack.packb({"v": 1, "type": "hello"})
        decoder = Decoder()
        decoder.feed(struct.pack(">IH", length, len(header)) + header + bytes(length - 3 - len(header)))
        assert len(decoder._buffer) <= 4100
    with pytest.raises(WireError) as caught:
        Decoder().feed(encode_hop("ping", {}))
    assert caught.value.reason == "order"
    with pytest.raises(WireError) as caught:
        Decoder(is_open=True).feed(encode_hop("hello", {}))
    assert caught.value.reason == "order"


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"v": 1, "type": "offer"}, "version"),
        ({"v": 3, "type": "offer"}, "version"),
        ({"v": 2, "type": "hello"}, "version"),
        ({"v": True, "type": "offer"}, "version"),
        ({"type": "offer"}, "version"),
        ({"v": 2}, "type"),
        ({"v": 2, "type": "pickle"}, "type"),
        ({"v": 2, "type": b"offer"}, "type"),
        ({"v": 2, "type": "offer", "rid": -1}, "header"),
        ({"v": 2, "type": "offer", "rid": 1 << 32}, "header"),
        ({"v": 2, "type": "offer", "rid": True}, "header"),
        ({"v": 2, "type": "offer", "x": 1}, "header"),
        ({"v": 2, "type": "offer", 5: 1}, "header"),
        ({"v": 2, "type": "offer", "rid": [1]}, "header"),
        ([1, 2], "header"),
        (msgpack.Timestamp(1), "header"),
    ],
)
def test_bad_headers(header, reason):
    packed, body = msgpack.packb(header), msgpack.packb({})
    with pytest.raises(WireError) as caught:
        open_frame(struct.pack(">IH", 2 + len(packed) + len(body), len(packed)) + packed + body)
    assert caught.value.reason == reason


def test_header_with_a_key_twice():
    packed = b"\x83\xa1v\x01\xa4type\xa5offer\xa1v\x01"
    with pytest.raises(WireError) as caught:
        open_frame(struct.pack(">IH", 3 + len(packed), len(packed)) + packed + b"\x80")
    assert caught.value.reason == "duplicate"


def test_bad_body_spoils_one_frame_only():
    bad = bytearray(encode_hop("offer", {"a": 1.5}))
    bad[-8:] = struct.pack(">d", float("nan"))
    decoder = Decoder(is_open=True)
    with pytest.raises(WireError) as caught:
        decoder.feed(bytes(bad))
    assert caught.value.reason == "finite"
    assert not decoder.is_fatal
    assert [frame.body for frame in decoder.feed(encode_hop("offer", {"b": 1}))] == [{"b": 1}]


def test_buffer_grows_with_what_came_and_shrinks_when_idle():
    decoder = Decoder(is_open=True)
    data = encode_hop("chunk!", {"data": bytes(1_000_000)})
    decoder.feed(data[:100_000])
    assert len(decoder._buffer) <= 400_000
    decoder.feed(data[100_000:])
    decoder.trim()
    assert len(decoder._buffer) <= 32 * 1024


# -- bodies


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (body_bytes(float("nan")), "finite"),
        (body_bytes(float("inf")), "finite"),
        (body_bytes([1.0, float("-inf")]), "finite"),
        (body_bytes(msgpack.Timestamp(1)), "extension"),
        (body_bytes(msgpack.ExtType(9, b"abc")), "extension"),
        (b"\x82\xa1a\x01\xa1a\x02", "duplicate"),
        (b"\x81\x90\x01", "msgpack"),
        (b"\x81\xc0\x01", "msgpack"),
        (b"\x81\x01\x01", "msgpack"),
        (b"\x81\xa1a", "msgpack"),
        (b"\x81\xa1a\x01\x01", "msgpack"),
        (b"\x81\xa1\xff\x01", "msgpack"),
        (b"\x81\xa1a\xc1", "msgpack"),
        (b"\x90", "msgpack"),
        (b"", "msgpack"),
        (b"\xdf\xff\xff\xff\xff", "items"),
        (body_bytes([[[[]]]]), "depth"),
        (b"\x81\xa1k" + b"\x91" * 10_000, "depth"),
        (b"\x81\xa1k\xdd\xff\xff\xff\xff", "items"),
        (body_bytes("x" * 5000), "msgpack"),
    ],
)
def test_bodies_that_msgpack_takes_and_we_do_not(data, reason):
    refused(reason, data)


def test_empty_containers_do_not_amplify():
    amplifier = msgpack.packb({str(index): [[]] * 4000 for index in range(40)})
    refused("items", amplifier, Limits(max_bytes=1 << 20))
    refused("items", body_bytes([[]] * 5000), Limits(max_bytes=1 << 20))
    assert len(unpack_body(body_bytes([[]] * 1000), Limits())["k"]) == 1000  # the control
    refused("size", body_bytes(bytes(70_000)), CONTROL_LIMITS)


def test_nothing_leaves_that_peers_refuse():
    for value in (
        float("nan"),
        object(),
        np.array([np.nan], dtype=np.float32),
        np.array(["a"]),
        {1, 2},
        1 << 70,
    ):
        with pytest.raises(WireError):
            pack_body({"k": value})


numeric = st.sampled_from(["?", "b", "B", "h", "H", "i", "I", "q", "Q", "e", "f", "d"])


@given(
    numeric.flatmap(
        lambda char: arrays.arrays(
            np.dtype(char).newbyteorder("<"),
            arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
            elements={"allow_nan": False, "allow_infinity": False} if char in "efd" else None,
        )
    )
)
def test_dense_array_comes_back(array):
    back = unpack_body(pack_body({"w": array}), DATA_LIMITS)["w"]
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


def test_big_endian_array_travels_as_little_endian():
    back = unpack_body(pack_body({"w": np.arange(3, dtype=">f4")}), DATA_LIMITS)["w"]
    assert back.dtype == np.dtype("<f4")
    assert back.tolist() == [0, 1, 2]


@given(st.lists(st.integers(0, 10**6 - 1), unique=True, max_size=50))
def test_sparse_array_comes_back(places):
    indices = np.array(sorted(places), dtype=np.int64)
    sparse = Sparse((1000, 1000), indices, np.arange(len(places), dtype=np.float16))
    back = unpack_body(pack_body({"w": sparse}), DATA_LIMITS)["w"]
    assert back.indices.tolist() == indices.tolist()
    assert back.values.tolist() == sparse.values.tolist()
    assert back.to_dense().shape == (1000, 1000)


@given(st.sampled_from([1, 2, 4, 8]), st.integers(0, 40), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_quantised_array_comes_back(bits, size, block, seed):
    rng = np.random.default_rng(seed)
    block = min(block, max(size, 1))
    low, high = (-1, 1) if bits == 1 else (-(1 << bits - 1), (1 << bits - 1) - 1)
    codes = rng.choice([-1, 1], size) if bits == 1 else rng.integers(low, high, size, endpoint=True)
    scales = rng.random(-(-size // block), dtype=np.float32)
    value = Quantised((size,), bits, block, scales, codes.astype(np.int8))
    back = unpack_body(pack_body({"w": value}), DATA_LIMITS)["w"]
    assert back.codes.tolist() == codes.tolist()
    np.testing.assert_array_equal(back.to_dense(), value.to_dense())


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", "<i4", "|u1", "|b1"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (40, 30)])
def test_deflated_array_comes_back_as_a_plain_one(dtype, shape):
    values = np.asarray(np.random.default_rng(1).standard_normal(shape) * 3).astype(dtype)
    back = unpack_body(pack_body({"w": Deflated(values)}), DATA_LIMITS)["w"]
    assert back.dtype == values.dtype and back.shape == shape
    assert back.tobytes() == values.tobytes()


def test_planes_make_changes_of_a_model_smaller():
    rng = np.random.default_rng(0)
    change = (rng.standard_normal(10_000) * 0.01).astype(np.float32)
    assert len(encode_array(Deflated(change))[1]) < 0.9 * len(encode_array(change)[1])
    half = change.astype(np.float16)
    assert len(encode_array(Deflated(half))[1]) < 0.85 * len(encode_array(half)[1])
    noise = rng.integers(0, 256, 1000).astype(np.uint8)
    assert encode_array(Deflated(noise)) == encode_array(noise)  # what does not shrink stays


def test_many_sparse_values_travel_deflated_and_come_back():
    rng = np.random.default_rng(0)
    indices = np.sort(rng.choice(10_000, 500, replace=False))
    sparse = Sparse((100, 100), indices, (rng.standard_normal(500) * 0.01).astype(np.float16))
    code, payload = encode_array(sparse)
    assert code == DEFLATED_SPARSE and len(payload) < 0.9 * 1500
    back = decode_array(code, payload, max_elements=10_000)
    np.testing.assert_array_equal(back.indices, indices)
    np.testing.assert_array_equal(back.values, sparse.values)


def _deflated(values: np.ndarray, **changed: bytes) -> bytes:
    """Return the payload of a deflated sparse array of as many values in a shape of 1000, with parts replaced."""
    parts = {
        "head": b"e\x01" + (1000).to_bytes(4, "big"), "gap_bytes": len(values).to_bytes(4, "big"),
        "count": len(values).to_bytes(4, "big"), "stream": zlib.compress(bytes(len(values)) + values.tobytes()),
    }  # fmt: skip
    return b"".join({**parts, **changed}.values())


@pytest.mark.parametrize(
    "changed",
    [
        {"count": (1 << 31).to_bytes(4, "big")},
        {"gap_bytes": (1 << 31).to_bytes(4, "big")},
        {"count": (9).to_bytes(4, "big")},
        {"stream": zlib.compress(bytes(1 << 22))},
        {"stream": zlib.compress(bytes(30))[:-1]},
        {"stream": zlib.compress(bytes(30)) + b"x"},
        {"stream": b"rubbish"},
        {"stream": zlib.compress(b"\xff" * 10 + bytes(20))},
        {"stream": zlib.compress(bytes(10) + b"\xff" * 20)},
    ],
)
def test_a_damaged_deflated_array_is_refused_before_it_takes_memory(changed):
    values = np.zeros(10, np.float16)
    assert decode_array(DEFLATED_SPARSE, _deflated(values), max_elements=1000).indices.tolist() == list(
        range(10)
    )
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            decode_array(DEFLATED_SPARSE, _deflated(values, **changed), max_elements=1000)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_deflated_array_larger_than_allowed_is_refused():
    code, payload = encode_array(Deflated(np.zeros((100, 100), np.float32)))
    assert code == DEFLATED_DENSE
    with pytest.raises(WireError):
        decode_array(code, payload, max_elements=9_999)
    with pytest.raises(WireError):
        decode_array(code, payload[:-3], max_elements=10_000)


def test_four_tensors_cost_56_bytes_of_framing():
    """1 for the map, 2 a name, 3 or 4 for msgpack's head, 2 for dtype and ndim, 4 a dimension."""
    shapes = {"0": (196, 64), "1": (64,), "2": (64, 10), "3": (10,)}
    tensors = {name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()}
    raw = sum(tensor.nbytes for tensor in tensors.values())
    assert raw == 53_032
    assert len(pack_body(tensors)) - raw == 1 + 4 * 2 + (4 + 4 + 4 + 3) + 4 * 2 + 6 * 4 == 56


def ext(code, payload):
    return body_bytes(msgpack.ExtType(code, payload))


def dense(char, dims, raw):
    return ext(1, char + struct.pack(f">B{len(dims)}I", len(dims), *dims) + raw)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (dense(b"O", (1,), bytes(8)), "dtype"),
        (dense(b"V", (1,), bytes(8)), "dtype"),
        (dense(b"f", (2,), bytes(4)), "array"),
        (dense(b"f", (1,), bytes(5)), "array"),
        (dense(b"f", (1,), struct.pack("<f", float("nan"))), "finite"),
        (dense(b"f", (2**32 - 1, 2**32 - 1), b""), "shape"),
        (dense(b"f", (2**31, 2**31, 0), b""), "shape"),
        (dense(b"f", (2**31, 0), b""), None),
        (ext(1, b"f\x09" + bytes(36)), "shape"),
        (ext(1, b"f\x02\x00"), "array"),
        (ext(1, b""), "array"),
        (dense(b"?", (1,), b"\x02"), "array"),
        (ext(2, b"f\x01" + struct.pack(">II", 4, 2) + b"\x00"), "array"),
        (ext(2, b"f\x01" + struct.pack(">II", 4, 1) + b"\x09" + bytes(4)), "array"),
        (ext(2, b"f\x01" + struct.pack(">II", 4, 1) + b"\x80" + bytes(4)), "array"),
        (ext(2, b"f\x01" + struct.pack(">II", 4, 2) + b"\x80\x00" + bytes(4)), "array"),
        (ext(2, b"f\x01" + struct.pack(">II", 4, 6) + b"\xff\xff\xff\xff\xff\x01" + bytes(4)), "array"),
        (ext(3, b"\x03\x00\x01" + struct.pack(">II", 1, 1) + bytes(5)), "array"),
        (ext(3, b"\x08\x02\x01" + struct.pack(">II", 1, 1) + bytes(5)), "array"),
        (ext(3, b"\x08\x00\x01" + struct.pack(">II", 1, 2**32 - 1) + bytes(5)), "array"),
        (ext(3, b"\x08\x00\x01" + struct.pack(">II", 1, 0) + bytes(5)), "array"),
        (ext(3, b"\x08\x01\x01" + struct.pack(">II", 1, 1) + bytes(5)), "compression"),
        (ext(3, b"\x04\x00\x01" + struct.pack(">II", 1, 1) + bytes(4) + b"\x10"), "array"),
    ],
)
def test_hostile_arrays(data, reason):
    if reason is None:
        assert unpack_body(data, DATA_LIMITS)["k"].size == 0
    else:
        refused(reason, data)


def test_compressed_bomb_stops_at_the_announced_size():
    import tracemalloc
    import zlib

    bomb = zlib.compress(bytes(64 << 20), 9)
    data = ext(3, b"\x08\x01\x01" + struct.pack(">II", 100, 100) + bytes(4) + bomb)
    tracemalloc.start()
    refused("compression", data)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_schema_decides_which_tensors_may_come():
    limits = Limits(max_bytes=4096, schema={"w": (2, 3), "b": (3,)})
    w, b = np.zeros((2, 3), dtype=np.float32), np.zeros(3, dtype=np.float32)
    assert set(unpack_body(pack_body({"w": w, "b": b, "note": "text"}), limits)) == {"w", "b", "note"}
    for body in ({"w": w}, {"w": w, "b": b, "c": b}, {"w": w.T, "b": b}, {"w": w, "b": [b]}):
        refused("schema", pack_body(body), limits, SchemaMismatch)
    refused("shape", pack_body({"w": w}), Limits(max_elements=5))
    refused("shape", pack_body({"w": b, "x": b}), Limits(max_elements=5))


# -- replay


def author(seq, *, run=RUN, identity=ME, **fields):
    return open_frame(seal(identity, "vote", {}, run=run, seq=seq, **fields))


def test_window_takes_each_message_once_in_any_order():
    window = ReplayWindow(window=8)
    for seq in (5, 3, 4, 9, 6):
        window.accept(author(seq))
        with pytest.raises(WireError) as caught:
            window.accept(author(seq))
        assert caught.value.reason == "replay"
    with pytest.raises(WireError) as caught:
        window.accept(author(1))
    assert caught.value.reason == "stale"
    window.accept(author(10**12))
    window.accept(
        author(3, identity=Identity.from_seed(b"\2" * 32))
    )  # another author has a window of its own


def test_relayed_message_of_an_unproved_run_needs_a_newer_round():
    window = ReplayWindow()
    window.accept(author(100, round=7))
    for round_ in (6, 7):
        with pytest.raises(WireError) as caught:
            window.accept(author(1, run=b"n" * 8, round=round_))
        assert caught.value.reason == "stale"
    window.accept(author(1, run=b"n" * 8, round=8))
    with pytest.raises(WireError):  # the old run does not come back, even with a newer round
        window.accept(author(101, round=9))


def test_author_on_its_own_link_vouches_for_its_new_run():
    window = ReplayWindow()
    window.accept(author(100))
    with pytest.raises(WireError):
        window.accept(author(1, run=b"n" * 8))
    window.vouch(ME.device_id, b"n" * 8)
    window.accept(author(1, run=b"n" * 8))


def test_window_is_bounded():
    window = ReplayWindow(max_authors=10)
    for index in range(30):
        window.accept(author(1, identity=Identity.from_seed(index.to_bytes(32, "big"))))
    assert len(window._authors) == 10
