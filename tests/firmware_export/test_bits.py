"""One set of bits: C on this machine equals NumPy for every data type, rule set and shape."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from flocklet.errors import ExportError
from flocklet.firmware_export.c.closed_loop import Controller
from flocklet.firmware_export.c.vectors import drive
from flocklet.firmware_export.export import errors_of, outputs
from flocklet.firmware_export.plan.numerics import activate, activate_exact, tanh
from flocklet.firmware_export.plan.plan import make_plan
from flocklet.firmware_export.plan.quantise import quantise_rows
from flocklet.firmware_export.plan.reference import forward, forward_exact, observations
from flocklet.firmware_export.read.network import (
    Activation,
    Affine,
    Gru,
    LayerNorm,
    Network,
    mlp,
    seeded_actor,
)
from flocklet.firmware_export.read.semantics import ObsSpec, preset
from flocklet.firmware_export.verify.expected import expected_of, step_records
from flocklet.firmware_export.verify.host import build_host
from kit.firmware import actor, actor_plan, needs_cc, small_plan, write_c


def host_equals(plan, tmp_path, *, steps=60, use_asm=True) -> None:
    expected = expected_of(plan, vectors=24, steps=steps)
    program = build_host(plan, write_c(plan, tmp_path / "c", use_asm=use_asm), tmp_path / "host")
    y, good = program.run(expected.x.view(np.uint32), is_step=False)
    words, _ = program.run(expected.records, is_step=True)
    np.testing.assert_array_equal(y, expected.y.view(np.uint32))
    np.testing.assert_array_equal(words, expected.step_words)
    assert good == 0


@needs_cc
@pytest.mark.parametrize("dtype", ["f32", "w16", "w8", "i16"])
@pytest.mark.parametrize("rules", ["learning-to-fly", "rl-tools"])
def test_actor_is_bit_exact_on_this_machine(tmp_path, dtype, rules):
    host_equals(actor_plan(dtype, rules), tmp_path)


@needs_cc
@pytest.mark.parametrize("dtype", ["f32", "w16", "i16"])
@pytest.mark.parametrize("feed", ["raw_output", "previous_action"])
def test_odd_sizes_and_every_rule_are_bit_exact(tmp_path, dtype, feed):
    extra: dict[str, Any] = (
        {"native_interval_us": 3000, "interval_us": 1000} if feed == "previous_action" else {}
    )
    plan = small_plan(dtype, feed=feed, init=0.25, order="newest_first", **extra)
    assert plan.cached
    host_equals(plan, tmp_path)


@needs_cc
@pytest.mark.parametrize("seed", range(4))
def test_any_mlp_is_bit_exact(tmp_path, seed):
    rng = np.random.default_rng(seed)
    dims = tuple(int(v) for v in rng.integers(1, 60, 2 + seed))
    kinds = [["tanh"], ["relu"], ["sigmoid"], [Activation("leaky_relu", 0.1)]][seed % 4] * (len(dims) - 2)
    weights = [rng.normal(0, 1 / np.sqrt(i), (o, i)) for i, o in pairwise(dims)]
    net = mlp(weights, [rng.normal(size=o) for o in dims[1:]], [*kinds, Activation("clip", -0.5, 0.5)])
    host_equals(make_plan("any", net), tmp_path)
    x = observations(rng, 64, net.n_in)
    assert np.abs(forward(net, x) - forward_exact(net, x)).max() <= 5e-6


@needs_cc
@pytest.mark.parametrize("after", [True, False])
def test_gru_norm_and_affine_are_bit_exact(tmp_path, after):
    rng = np.random.default_rng(5)

    def draw(*shape):
        return rng.normal(0, 0.5, shape).astype(np.float32)

    gru = Gru(draw(18, 9), draw(18, 6), draw(18), draw(18), after)
    norm = LayerNorm(draw(9), draw(9), 1e-5)
    tail = mlp([draw(3, 6)], [draw(3)], ["tanh"]).layers
    net = Network((Affine(draw(9), draw(9), Activation("tanh")), norm, gru, *tail))
    host_equals(make_plan("rnn", net), tmp_path)


def test_cached_history_adds_in_the_stateless_order():
    """The kept sums must give the bits of a full sum; the plain column order must stay within 1e-5."""
    plan = actor_plan(activation="tanh")
    rng = np.random.default_rng(0)
    x = observations(rng, 200, 146)
    own, plain = outputs(plan, x), forward(plan.network, x)
    assert not np.array_equal(own, plain)
    assert np.abs(own - plain).max() <= 1e-5


def transcription_ltf(net, obs):
    """Learning to Fly 2023, transcribed from its description.

    History oldest first, shift at counter % 5 == 0.
    """
    f = np.float32
    past, out = np.zeros((32, 4), f), []
    order = np.concatenate([18 + np.arange(128), np.arange(18)])
    for counter, state in enumerate(obs):
        y = forward(net, np.concatenate([state, past.ravel()])[None], order=order)[0]
        s = counter % 5
        if s == 0:
            past[0:31] = past[1:32].copy()
        past[31] = (past[31] * f(s) + y) / f(s + 1)
        out.append(y)
    return np.array(out)


def transcription_rl_tools(net, obs, previous):
    """Current rl_tools executor, every fifth call native: newest first, fed with the previous action."""
    f = np.float32
    past, k, out = np.full((32, 4), 2 * 0.66 - 1, f), 0, []
    order = np.concatenate([18 + np.arange(128).reshape(32, 4)[::-1].ravel(), np.arange(18)])
    for state, given in zip(obs, previous, strict=True):
        past[0] = given if k == 0 else (past[0] * f(k) + given) / f(k + 1)
        y = np.clip(forward(net, np.concatenate([state, past.ravel()])[None], order=order)[0], -1, 1)
        k += 1
        if k == 5:
            past[1:] = past[:-1].copy()
            k = 0
        out.append(y)
    return np.array(out)


@pytest.mark.parametrize("rules", ["learning-to-fly", "rl-tools"])
def test_rules_equal_a_straight_transcription_over_1000_steps(rules):
    net = seeded_actor(np.random.default_rng(2), (146, 16, 4), "fast_tanh")
    obs_spec, action_spec = preset(rules)
    plan = make_plan("t", net, obs=replace(obs_spec, clip=1e6), action=action_spec)
    rng = np.random.default_rng(4)
    obs = observations(rng, 1000, 146)[:, :18]
    previous = rng.uniform(-1, 1, (1000, 4)).astype(np.float32)
    if rules == "rl-tools":
        wanted = transcription_rl_tools(net, obs, previous)
        got = drive(plan, obs, previous).actions
    else:
        wanted = transcription_ltf(net, obs)
        got = drive(plan, obs, None).actions
    np.testing.assert_array_equal(got.view(np.uint32), wanted.view(np.uint32))
    wrong = make_plan("t", net, obs=replace(obs_spec, clip=1e6, order="newest_first"), action=action_spec)
    if rules == "learning-to-fly":
        assert not np.array_equal(drive(wrong, obs[:20], None).actions, wanted[:20])


def test_tanh_is_accurate_and_never_leaves_one():
    x = np.concatenate([np.linspace(-20, 20, 200_001), [0.0, -0.0, 1e-30, np.inf, -np.inf]]).astype(
        np.float32
    )
    y = tanh(x)
    assert np.abs(y).max() <= 1.0
    assert np.abs(y - np.tanh(x.astype(np.float64))).max() <= 5e-7
    gap = activate(x, Activation("fast_tanh")) - activate_exact(x.astype(np.float64), Activation("tanh"))
    assert 0.02 < np.abs(gap).max() < 0.03  # the two kinds are not the same thing


@pytest.mark.parametrize(("dtype", "limit"), [("f32", 5e-6), ("w16", 1e-3), ("i16", 1.5e-3)])
@pytest.mark.parametrize("activation", ["tanh", "fast_tanh"])
def test_errors_stay_within_their_promise_on_five_seeds(dtype, limit, activation):
    obs, action = preset("learning-to-fly")
    for seed in range(5):
        plan = make_plan("e", actor(activation, seed), dtype=dtype, obs=obs, action=action)
        assert errors_of(plan, observations(np.random.default_rng(seed), 64, 146)).max <= limit


def test_no_sum_can_overflow_and_the_bound_is_nearly_reached():
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows = quantise_rows(rng.normal(size=(6, 40)) * rng.choice([1e-3, 1, 50]), 4095, 32767)
        worst = np.abs(rows.q).sum(axis=1) * 4095
        assert worst.max() < 2**31
        adversary = np.sign(rows.q) * 4095
        assert (rows.q * adversary).sum(axis=1).max() == worst.max()
    assert quantise_rows(np.full((1, 4), 0.5), 4095, 10**9).margin < 1e-3


@needs_cc
@pytest.mark.parametrize("dtype", ["w16", "i16"])
def test_adversarial_weights_are_clean_under_sanitizers(tmp_path, dtype):
    """All weights of one sign and inputs at their bounds drive the sums to their limit; UBSan watches."""
    rng = np.random.default_rng(1)
    weights = [np.full((8, 20), 0.4), np.full((8, 8), 0.3), np.full((3, 8), 0.9)]
    net = mlp(
        [w * rng.uniform(0.99, 1, w.shape) for w in weights],
        [np.ones(8), np.ones(8), np.ones(3)],
        ["tanh"] * 3,
    )
    obs = ObsSpec(5, 4.0, (5, 3), 3, range=4.0, init=1.0)
    plan = make_plan("adv", net, dtype=dtype, obs=obs)
    values = np.where(np.arange(60)[:, None] % 2, 4.0, -4.0).astype(np.float32) * np.ones((1, 5), np.float32)
    program = build_host(plan, write_c(plan, tmp_path / "c"), tmp_path / "host")
    words, _ = program.run(step_records(plan, values, None, range(60)), is_step=True)
    np.testing.assert_array_equal(words[:, :-1], drive(plan, values, None).actions.view(np.uint32))


def test_integers_are_refused_where_nothing_bounds_the_values():
    net = seeded_actor(np.random.default_rng(0), (6, 8, 2), "relu")
    with pytest.raises(ExportError, match="w16 needs bounded layers"):
        make_plan("r", net, dtype="w16")
    with pytest.raises(ExportError, match="i16 needs tanh"):
        make_plan("r", net, dtype="i16", obs=ObsSpec(6, range=1.0))
    with pytest.raises(ExportError, match="declared range"):
        make_plan("r", seeded_actor(np.random.default_rng(0), (6, 8, 2)), dtype="i16")


@needs_cc
def test_relu_with_a_proved_bound_runs_as_w16(tmp_path):
    net = seeded_actor(np.random.default_rng(0), (6, 8, 8, 2), "relu", "tanh")
    host_equals(make_plan("r", net, dtype="w16", obs=ObsSpec(6, 3.0, range=3.0)), tmp_path)


def test_controller_reset_forgets_everything():
    plan = small_plan()
    obs = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    controller = Controller(plan)
    first = [controller.step(o)[0] for o in obs]
    controller.reset(plan.obs.init)
    np.testing.assert_array_equal(first, [controller.step(o)[0] for o in obs])
