"""The paper's trainer: order of one iteration, targets, gradients, weight decay, curriculum, threads, and that it learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flocklet.errors import FlockletError
from flocklet.kernels.noise import Draws
from flocklet.models.flight.policy import fast_tanh
from flocklet.models.flight.sim import environment as env
from flocklet.models.flight.sim.dynamics import CRAZYFLIE
from flocklet.models.flight.train import td3
from flocklet.models.flight.train.td3 import Recipe, Td3
from flocklet.models.flight.train.td3_program import (
    ACTOR,
    AGE,
    CRITIC,
    NEXT,
    PUSH,
    REWARD,
    SEEN,
    TERMINATED,
    actor_program,
    critic_program,
    decay_of,
)
from kit.kernel_runs import compiler, twin64

SMALL = Recipe(
    steps=91, batch=8, critic_warm_up=20, actor_warm_up=40, curriculum_interval=30, exploration=0.3
)
PAPER = Recipe()


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOCKLET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def run() -> Td3:
    made = Td3(np.random.default_rng(1), recipe=SMALL, compilers=[])
    made.advance(SMALL.steps)
    return made


def test_the_papers_schedule():
    critics = [t for t in range(PAPER.steps) if PAPER.updates_critics(t)]
    actors = [t for t in range(PAPER.steps) if PAPER.updates_actor(t)]
    assert (critics[0], len(critics)) == (15_010, 28_500)
    assert (actors[0], len(actors)) == (30_020, 13_500)
    assert set(actors) <= set(critics)
    assert [t for t in range(PAPER.steps) if PAPER.hardens(t)] == [100_000, 200_000]
    weights = env.harder(env.harder(env.START_WEIGHTS))
    np.testing.assert_allclose(weights, (7.2, 5, 0.0196, 0.0196))


def test_one_iteration_keeps_the_papers_order(monkeypatch):
    made = Td3(np.random.default_rng(0), recipe=SMALL, compilers=[])
    order: list[str] = []

    def spy(name: str, what: object, method: str) -> None:
        real = getattr(what, method)

        def seen(*args, **more):
            where = f" {args[0]}..{args[1] - 1}" if name == "collect" else ""
            order.append(name + where)
            return real(*args, **more)

        monkeypatch.setattr(what, method, seen)

    spy("collect", made.collect, "run")
    spy("critics", made.critic, "run")
    spy("gradient", made.gradient, "run")
    monkeypatch.setattr(made, "_harden", lambda real=made._harden: (order.append("harden"), real()))
    for name in ("settle", "move_critics", "move_actor"):
        real = getattr(made, name)
        monkeypatch.setattr(made, name, lambda name=name, real=real: (order.append(name), real()))
    made.advance(SMALL.steps)
    learning = ["critics", "move_critics"]
    acting = ["critics", "gradient", "settle", "move_critics", "move_actor"]
    want = ["collect 0..0", "collect 1..10", "collect 11..20", "collect 21..29", "harden", "collect 30..30"]
    want += [*learning, "collect 31..40", *learning, "collect 41..50", *learning, "collect 51..59"]
    want += ["harden", "collect 60..60", *acting, "collect 61..70", *learning, "collect 71..80", *acting]
    assert order == [*want, "collect 81..90", *learning]


def test_nothing_learns_before_its_warm_up():
    made = Td3(np.random.default_rng(0), recipe=SMALL, compilers=[])
    critics, actor = made.critics.copy(), made.actor.copy()
    made.advance(21)
    np.testing.assert_array_equal(made.critics, critics)
    made.advance(41)
    assert (made.critics != critics).any()
    np.testing.assert_array_equal(made.actor, actor)
    made.advance(61)
    assert (made.actor != actor).any()


def test_every_stored_reward_is_recomputed_bit_for_bit(run):
    made = Td3(np.random.default_rng(2), recipe=SMALL, compilers=[])
    made.advance(60)
    before = made.records[:60, REWARD].copy()
    made.advance(61)
    assert made.weights == env.harder(env.harder(env.START_WEIGHTS))
    bodies, after, action = made.records[:60, :17], made.records[:60, 17:34], made.log[32:92]
    want = env.reward(bodies, action, after, made.weights)
    np.testing.assert_array_equal(made.records[:60, REWARD], want.astype(np.float32))
    old = env.reward(bodies, action, after, env.harder(env.START_WEIGHTS))
    np.testing.assert_allclose(before, old, rtol=1e-5, atol=1e-5)
    assert np.abs(want - old).max() > 1e-3  # control: the weights do change the rewards
    np.testing.assert_allclose(made.records[60, REWARD], made.rewards(made.weights)[60], rtol=1e-5, atol=1e-5)


def test_the_replay_holds_true_transitions(run):
    records, log = run.records.astype(np.float64), run.log
    n = SMALL.steps
    body, after, push = records[:, :17], records[:, 17:34], records[:, PUSH : PUSH + 6]
    action = log[32 : 32 + n]
    assert (np.abs(action) <= 1).all() and (np.abs(action) > 0).any()
    moved = env.advance(body, action.astype(np.float64), CRAZYFLIE, push[:, :3], push[:, 3:])
    np.testing.assert_allclose(after[:, :13], moved[:, :13], rtol=1e-4, atol=1e-4)
    ended = env.is_lost(after)
    np.testing.assert_array_equal(records[:, TERMINATED] > 0, ended)
    assert 0 < ended.sum() < n / 3
    np.testing.assert_array_equal(records[1:, AGE], np.where(ended[:-1], 0, records[:-1, AGE] + 1))
    going = ~ended[:-1]
    np.testing.assert_array_equal(body[1:][going], after[:-1][going])  # an episode goes on where it was
    seen, then = records[:, SEEN : SEEN + 18], records[:, NEXT : NEXT + 18]
    for noisy, bodies in ((seen, body), (then, after)):
        error = (
            noisy - np.hstack([bodies[:, :3], env.rotation(bodies[:, 3:7]), bodies[:, 7:13]])
        ) / env.NOISE
        assert abs(error.std() - 1) < 0.1
    assert np.abs(then[:-1][going] - seen[1:][going]).max() > 1e-3  # two reads of one state, two noises
    policy, history = run.policy(), np.zeros((n, 32, 4))
    for t in range(n):
        age = int(records[t, AGE])
        for j in range(max(0, 32 - age), 32):
            history[t, j] = log[t + j]
    start = Td3(np.random.default_rng(1), recipe=SMALL, compilers=[]).policy()
    meant = start(np.hstack([seen, history.reshape(n, -1)]).astype(np.float32))
    error = (action - meant)[:60][np.abs(action[:60]) < 1]  # the actor learns at 60 for the first time
    assert abs(error.std() / SMALL.exploration - 1) < 0.25
    assert policy.sizes == (146, 64, 64, 4)


def net(shape, flat: np.ndarray, x: np.ndarray) -> np.ndarray:
    for weights, bias, kind in shape.export(flat):
        x = x @ weights.T + bias
        if kind == "fast_tanh":
            x = fast_tanh(x)
    return x


def filled(program, run: Td3, seed: int = 3):
    """Return the program in float64 on the replay of `run`, with indices drawn."""
    oracle = twin64(program)
    rng = np.random.default_rng(seed)
    for name, value in (("records", run.records), ("log", run.log)):
        oracle.buffers[name][:] = value.reshape(-1)
    index = rng.integers(0, SMALL.steps, oracle.buffers["index"].size)
    index[::16] = np.flatnonzero(run.records[:, TERMINATED])[0]  # ends are rare: every batch holds some
    oracle.buffers["index"][:] = index
    return oracle, rng


def pair(run: Td3, index: np.ndarray, start: int, action: np.ndarray) -> np.ndarray:
    picked = run.records[index].astype(np.float64)
    body, push = picked[:, start : start + 17], picked[:, PUSH : PUSH + 6]
    zero = np.zeros(len(index), np.int32)
    state = env.State(body, push[:, :3], push[:, 3:], np.zeros((len(index), 32, 4)), zero, zero)
    return np.hstack([env.observe_privileged(state, CRAZYFLIE), action])


def history(run: Td3, index: np.ndarray, later: int) -> np.ndarray:
    out = np.zeros((len(index), 32, 4))
    for i, t in enumerate(index):
        for back in range(1, min(32, int(run.records[t, AGE]) + later) + 1):
            out[i, 32 - back] = run.log[32 + t + later - back]
    return out.reshape(len(index), -1)


def test_a_critic_learns_what_the_paper_says(run):
    batch, n = 64, CRITIC.count
    program = critic_program(SMALL.steps, CRAZYFLIE, batch=batch, discount=0.99, smooth=(0.2, 0.5))
    oracle, rng = filled(program, run)
    b = oracle.buffers
    for name in ("critics", "critic_targets"):
        b[name][:] = np.concatenate([CRITIC.init(rng), CRITIC.init(rng)])
    b["actor_target"][:], b["rows"][:] = ACTOR.init(rng), np.arange(batch)
    b["dice"][:], b["decay"][:] = (5, 6, 7, 0, 5, 6, 7, 1), decay_of(CRITIC, 5e-5)
    before = b["critics"].copy()
    oracle.run(0, 2)
    noises: list[np.ndarray] = []
    for which in range(2):
        index = b["index"][which * batch : (which + 1) * batch].astype(int)
        picked = run.records[index].astype(np.float64)
        then = np.hstack([picked[:, NEXT : NEXT + 18], history(run, index, 1)])
        aimed = net(ACTOR, b["actor_target"], then)
        critic = before[which * n : (which + 1) * n]
        now = pair(run, index, 0, run.log[32 + index])
        value = net(CRITIC, critic, now)[:, 0]
        goal = value - b["td"][which * batch : (which + 1) * batch]
        draws = Draws(np.arange(batch, dtype=np.float64), [5.0, 6.0, 7.0, float(which)]).normals(4)
        noise = np.clip(np.stack(draws, axis=1) * 0.2, -0.5, 0.5)
        noises.append(noise)
        pushed = np.clip(aimed + noise, -1, 1)
        targets = [b["critic_targets"][i * n : (i + 1) * n] for i in range(2)]
        after = pair(run, index, 17, pushed)
        least = np.minimum(net(CRITIC, targets[0], after)[:, 0], net(CRITIC, targets[1], after)[:, 0])
        want = picked[:, REWARD] + 0.99 * (1 - picked[:, TERMINATED]) * least
        np.testing.assert_allclose(goal, want, rtol=1e-6, atol=1e-6)
        assert (picked[:, TERMINATED] > 0).any()

        def loss(flat: np.ndarray, now: np.ndarray = now, want: np.ndarray = want) -> float:
            return float(((net(CRITIC, flat, now)[:, 0] - want) ** 2).mean())

        grads = b["grads"][which * n : (which + 1) * n]
        for at in rng.integers(0, n, 12):
            up, down = critic.copy(), critic.copy()
            up[at], down[at] = up[at] + 1e-5, down[at] - 1e-5
            assert grads[at] == pytest.approx((loss(up) - loss(down)) / 2e-5, rel=1e-4, abs=1e-8)
        # the first step of Adam is the sign of the gradient times the rate; decay on weights only
        decayed = critic * (1 - decay_of(CRITIC, 5e-5))
        step = 1e-3 * grads / (np.abs(grads) + 1e-8)
        np.testing.assert_allclose(b["critics"][which * n : (which + 1) * n], decayed - step, atol=2e-7)
    assert np.abs(noises[0] - noises[1]).mean() > 0.05
    assert (b["index"][:batch] != b["index"][batch:]).any()
    bias = slice(CRITIC.layers[0].bias, CRITIC.layers[0].bias + 64)
    assert (decay_of(CRITIC, 5e-5)[bias] == 0).all() and decay_of(CRITIC, 5e-5).sum() > 0


def test_the_actor_climbs_the_first_critic(run):
    batch = 64
    program = actor_program(SMALL.steps, CRAZYFLIE, batch=batch)
    oracle, rng = filled(program, run)
    b = oracle.buffers
    b["actor"][:], b["critics"][:] = ACTOR.init(rng), np.concatenate([CRITIC.init(rng), CRITIC.init(rng)])
    oracle.run(0, 2)
    index = b["index"].astype(int)
    seen = np.hstack([run.records[index, SEEN : SEEN + 18].astype(np.float64), history(run, index, 0)])
    grads = b["grads"][: ACTOR.count] + b["grads"][ACTOR.count :]

    def loss(flat: np.ndarray) -> float:
        value = net(CRITIC, b["critics"][: CRITIC.count], pair(run, index, 0, net(ACTOR, flat, seen)))
        return -float(value.mean())

    for at in rng.integers(0, ACTOR.count, 15):
        up, down = b["actor"].copy(), b["actor"].copy()
        up[at], down[at] = up[at] + 1e-5, down[at] - 1e-5
        assert grads[at] == pytest.approx((loss(up) - loss(down)) / 2e-5, rel=1e-4, abs=1e-9)


def test_targets_follow_slowly(run):
    made = Td3(np.random.default_rng(1), recipe=SMALL, compilers=[])
    start_critics, start_actor = made.critics.copy(), made.actor.copy()
    made.advance(31)
    target = made.critic.buffers["critic_targets"]
    np.testing.assert_allclose(target, start_critics + 0.005 * (made.critics - start_critics), atol=1e-7)
    np.testing.assert_array_equal(made.critic.buffers["actor_target"], start_actor)
    made.advance(61)
    want = start_actor + 0.005 * (made.actor - start_actor)
    np.testing.assert_allclose(made.critic.buffers["actor_target"], want, atol=1e-7)


QUICK = replace(
    PAPER, steps=6_001, critic_warm_up=1_000, actor_warm_up=3_000, critic_interval=4, actor_interval=8
)


@pytest.mark.slow
@pytest.mark.timeout(120)  # compiles five programs
def test_two_threads_give_the_same_bytes_and_the_critics_learn():
    runs = [Td3(np.random.default_rng(5), recipe=QUICK, threads=k, compilers=[compiler()]) for k in (1, 2)]
    untrained = runs[0].critics[: CRITIC.count].copy()
    for made in runs:
        made.advance(QUICK.steps)
        made.close()
    one, two = runs
    np.testing.assert_array_equal(one.actor, two.actor)
    np.testing.assert_array_equal(one.critics, two.critics)

    index = np.arange(1_000, 2_900)  # the first policy flew here: returns are those of one policy
    returns, total = np.zeros(QUICK.steps), 0.0
    for t in reversed(range(QUICK.steps)):
        total = one.records[t, REWARD] + 0.99 * total * (1 - one.records[t, TERMINATED])
        returns[t] = total
    now = pair(one, index, 0, one.log[32 + index])
    learnt = np.corrcoef(net(CRITIC, one.critics[: CRITIC.count], now)[:, 0], returns[index])[0, 1]
    before = np.corrcoef(net(CRITIC, untrained, now)[:, 0], returns[index])[0, 1]
    assert learnt > 0.5 > before, (learnt, before)


def told_by_training(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [x.getMessage() for x in caplog.records if x.name == "flocklet.models.flight"]


def broken(made: Td3, monkeypatch: pytest.MonkeyPatch, after: int, times: int) -> None:
    """Let the updates after step `after` leave a NaN, `times` times; look at the weights after every update."""
    monkeypatch.setattr(td3, "_BULK", 1)
    real, left = made.critic.run, [times]

    def run(lo: int, hi: int, **more: int) -> None:
        real(lo, hi, **more)
        if made.t > after and left[0]:
            left[0] -= 1
            made.critics[7] = np.nan

    monkeypatch.setattr(made.critic, "run", run)


def test_a_training_that_diverges_goes_on_from_its_last_finite_state(monkeypatch, caplog):
    """At step 60 the rewards have just changed: they must change back, and again."""
    made = Td3(np.random.default_rng(0), recipe=SMALL, compilers=[])
    broken(made, monkeypatch, after=60, times=1)
    seen = []
    real = made._go_back

    def back() -> None:
        assert np.isnan(made.actor).any() and np.isnan(made.critics).any()
        real()
        seen.append((made.t, made.weights == env.harder(env.START_WEIGHTS)))

    monkeypatch.setattr(made, "_go_back", back)
    made.advance(SMALL.steps)
    assert seen == [(51, True)], "it went back, once"
    assert told_by_training(caplog) == [
        "a weight was not finite before step 60: training goes on from step 51"
    ]
    for run in made._runs:
        for name, array in run.buffers.items():
            assert np.isfinite(array).all(), name
    assert made.weights == env.harder(env.harder(env.START_WEIGHTS))
    np.testing.assert_allclose(made.records[:, REWARD], made.rewards(made.weights), rtol=1e-5, atol=1e-5)


def test_a_training_that_never_gets_well_says_so(monkeypatch, caplog):
    made = Td3(np.random.default_rng(0), recipe=SMALL, compilers=[])
    broken(made, monkeypatch, after=30, times=1_000_000)
    with pytest.raises(FlockletError, match="4 times in a row"):
        made.advance(SMALL.steps)
    where = "a weight was not finite before step {}: training goes on from step 31"
    assert told_by_training(caplog) == [where.format(t) for t in (30, 40, 40)]
    assert np.isfinite(made.records[:31]).all(), "what was collected before learning began stays"


def test_intervals_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="divide"):
        Td3(np.random.default_rng(0), recipe=replace(SMALL, actor_interval=15), compilers=[])
