"""Codecs keep what they promise: unbiased or contracting within omega, and small."""

import numpy as np
import pytest

from flocklet.models.layout import Layout
from flocklet.swarm.codecs import Encoder, Fp16, Fp32, Int4, Int8, RandomK, Sign, TopK
from flocklet.swarm.schedules.membership_view import View
from flocklet.wire.frame import Limits, pack_body, unpack_body
from kit.swarm_tasks import blobs, simulate

LAYOUT = Layout({"w0": (40, 30), "b0": (30,), "w1": (30, 10)})
CODECS = [Fp32(), Fp16(), Fp32(zlib=True), Fp16(zlib=True), Int8(), Int4(), TopK(0.05), RandomK(0.1), Sign()]


def through(codec, vector, rng):
    """Return what a receiver gets, through real bytes, and how many they were."""
    data = pack_body(codec.encode(vector, LAYOUT, rng))
    body = unpack_body(data, Limits(max_bytes=1 << 20))
    dense = {k: v if isinstance(v, np.ndarray) else v.to_dense() for k, v in body.items()}
    return LAYOUT.join(dense), len(data)


def vector(seed=0):
    return np.random.default_rng(seed).normal(size=LAYOUT.size).astype(np.float32)


@pytest.mark.parametrize("codec", CODECS, ids=lambda c: c.name)
def test_the_error_stays_within_omega(codec):
    rng = np.random.default_rng(1)
    for seed in range(20):
        x = vector(seed)
        errors = [((through(codec, x, rng)[0] - x) ** 2).sum() / (x**2).sum() for _ in range(10)]
        sizes = [s.stop - s.start for s in LAYOUT.slices.values()]
        assert np.mean(errors) <= max(codec.omega(s) for s in [*sizes, LAYOUT.size]) * 1.05 + 1e-12


@pytest.mark.parametrize("codec", [c for c in CODECS if c.unbiased], ids=lambda c: c.name)
def test_unbiased_codecs_are_right_on_average(codec):
    rng, x = np.random.default_rng(2), vector()
    mean = np.mean([through(codec, x, rng)[0] for _ in range(600)], axis=0)
    once = ((through(codec, x, rng)[0] - x) ** 2).sum()
    assert ((mean - x) ** 2).sum() <= max(1e-6, 3 * once / 600)


def test_a_biased_codec_is_not_right_on_average():
    rng, x = np.random.default_rng(2), vector()
    mean = np.mean([through(TopK(0.05), x, rng)[0] for _ in range(50)], axis=0)
    assert ((mean - x) ** 2).sum() > 0.2 * (x**2).sum()


@pytest.mark.parametrize("codec", [TopK(0.05), Sign()], ids=lambda c: c.name)
def test_error_feedback_delivers_in_the_end_what_was_left_out(codec):
    rng, x = np.random.default_rng(3), vector()
    encoder = Encoder(codec, LAYOUT, rng)
    total = sum(encoder.encode(x)[1].astype(np.float64) for _ in range(400))
    without = sum(through(codec, x, rng)[0].astype(np.float64) for _ in range(400))
    error = np.linalg.norm(total / 400 - x) / np.linalg.norm(x)
    assert error < 0.25 < np.linalg.norm(without / 400 - x) / np.linalg.norm(x)


def test_sizes_are_in_the_order_of_the_table():
    rng, x = np.random.default_rng(4), vector()
    size = {codec.name: through(codec, x, rng)[1] for codec in CODECS if not getattr(codec, "zlib", False)}
    assert size["fp32"] > 1.9 * size["fp16"] > 1.9 * 1.9 * size["int8"]
    assert size["int8"] > 1.8 * size["int4"] > 1.8 * size["sign"]
    assert size["fp32"] > 18 * size["topk"]


@pytest.mark.parametrize("codec", [Fp32, Fp16])
def test_zlib_makes_dense_codecs_smaller_and_changes_no_bit(codec):
    x = 0.01 * vector()
    plain, deflated = (through(codec(zlib=on), x, np.random.default_rng(1)) for on in (False, True))
    assert plain[0].tobytes() == deflated[0].tobytes() and deflated[1] < 0.95 * plain[1]


def test_zlib_reaches_the_wire_of_a_swarm_and_leaves_its_models_alone():
    task = blobs(8)
    plain = simulate("fedavg|sgd(lr=0.1)|fp32", task, rounds=3)[1]
    deflated = simulate("fedavg|sgd(lr=0.1)|fp32(zlib=true)", task, rounds=3)[1]
    assert deflated.accuracy == plain.accuracy and deflated.bytes < plain.bytes


def test_a_view_does_not_repeat_the_sample():
    ids = [bytes([i]) * 32 for i in range(20)]
    view, other = View(ids, inactivity=50), View(ids, inactivity=50)
    sample = b"".join(peer[:8] for peer in ids[:10])
    for peer in ids:
        view.seen(peer, 60)
    packed = view.pack(61, sample)
    assert len(packed) == 10 * 10 and len(view.pack(61)) == 20 * 10
    other.merge(packed, 61)
    assert set(other.candidates(100)) == set(
        ids[10:]
    )  # the control: without the sample's news ten are forgotten
    other.sampled(sample + b"stranger" * 40, 61)
    assert set(other.candidates(100)) == set(ids)


@pytest.mark.parametrize("schedule", ["fedavg", "regular(4)", "modest(s=5)"])
@pytest.mark.parametrize("codec", ["int8", "int4", "topk(0.1)"])
def test_a_swarm_learns_through_a_codec_and_sends_less(schedule, codec):
    task = blobs(10, alpha=0.5)
    whole = simulate(f"{schedule}|sgd(lr=0.2)", task, rounds=25)[1]
    small = simulate(f"{schedule}|sgd(lr=0.2)|{codec}", task, rounds=25)[1]
    assert small.accuracy > whole.accuracy - 0.04
    assert small.bytes < whole.bytes * 0.92
    assert not small.refused
