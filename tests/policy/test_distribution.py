"""Every gradient of a distribution and of a loss against finite differences in float64."""

from __future__ import annotations

import numpy as np
import pytest

from flocklet.models.policy.distribution import Categorical, Normal, Squashed
from flocklet.models.policy.losses import anchor_error, loss, nash_error, nash_margin, soft_error

RNG = np.random.default_rng(0)
ROWS, WIDTH = 5, 4


def slope(f, x, size=1e-6):
    out = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[at] += size
        down[at] -= size
        out[at] = (f(up) - f(down)) / (2 * size)
    return out


def categorical():
    x, y = RNG.normal(size=(2, ROWS, WIDTH))
    return Categorical, x, y, RNG.integers(WIDTH, size=ROWS)


def normal(kind=Normal):
    x, y = np.clip(RNG.normal(size=(2, ROWS, WIDTH)) * 0.5, -2.0, 0.9)  # inside the clip of the log-deviation
    action = RNG.normal(size=(ROWS, WIDTH // 2))
    return kind, x, y, np.tanh(action) if kind is Squashed else action


CASES = {"categorical": categorical, "normal": normal, "squashed": lambda: normal(Squashed)}


@pytest.fixture(params=list(CASES))
def case(request):
    return CASES[request.param]()


def test_log_probability_entropy_and_kl_have_the_stated_gradients(case):
    make, x, y, action = case
    one, two = make(x), make(y)
    found = slope(lambda z: make(z).log_prob(action).sum(), x)
    assert np.abs(found - one.log_prob_gradient(action)).max() < 1e-6
    assert np.abs(slope(lambda z: make(z).entropy().sum(), x) - one.entropy_gradient()).max() < 1e-6
    assert np.abs(slope(lambda z: make(z).kl(two).sum(), x) - one.kl_gradient(two)).max() < 1e-6
    assert (one.kl(two) > 0).all()
    assert np.abs(one.kl(one)).max() < 1e-12


def test_the_fisher_matrix_is_the_curvature_of_the_kl(case):
    make, x, _, _ = case
    one, direction = make(x), RNG.normal(size=x.shape)
    size = 1e-4
    moved = sum(make(x).kl(make(x + sign * size * direction)).sum() for sign in (1, -1)) / size**2
    assert moved == pytest.approx(float((direction * one.fisher(direction)).sum()), rel=1e-4)


def test_kl_is_that_of_samples():
    for make, x, y, _ in (categorical(), normal()):
        one, two = make(x[:1].repeat(200_000, 0)), make(y[:1].repeat(200_000, 0))
        drawn = one.sample(np.random.default_rng(1))
        assert float((one.log_prob(drawn) - two.log_prob(drawn)).mean()) == pytest.approx(
            float(one.kl(two)[0]), abs=0.02
        )


def test_illegal_actions_are_never_drawn():
    allowed = np.zeros((1000, WIDTH), bool)
    allowed[:, 2] = True
    drawn = Categorical(RNG.normal(size=(1000, WIDTH)) * 5, allowed).sample(np.random.default_rng(0))
    assert (drawn == 2).all()


@pytest.mark.parametrize("name", ["a2c", "ppo", "mdpo"])
def test_losses_have_the_stated_gradients(case, name):
    make, x, y, action = case
    y = x + 0.2 * (y - x)
    old, advantage = make(y), RNG.normal(size=ROWS)

    def value(z):
        new = make(z)
        ratio = np.exp(new.log_prob(action) - old.log_prob(action))
        if name == "a2c":
            return -(advantage * new.log_prob(action)).mean()
        if name == "ppo":
            return -np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage).mean()
        return (-ratio * advantage + 3.0 * new.kl(old)).mean()

    given = loss(name)(make(x), old, action, advantage, {"a2c": 0.0, "ppo": 0.2, "mdpo": 3.0}[name])
    assert np.abs(slope(value, x) - given).max() < 1e-6


def test_mdpos_kl_has_no_gradient_at_the_first_step():
    make, x, _, action = categorical()
    advantage = RNG.normal(size=ROWS)
    first = loss("mdpo")(make(x), make(x), action, advantage, 50.0)
    assert np.allclose(first, loss("a2c")(make(x), make(x), action, advantage, 0.0))
    later = loss("mdpo")(make(x + RNG.normal(size=x.shape)), make(x), action, advantage, 50.0)
    assert not np.allclose(later, loss("a2c")(make(x), make(x), action, advantage, 0.0))


def test_anchors_pull_towards_each_policy_by_its_weight(case):
    make, x, y, _ = case
    near = [(make(y), 0.5), (make(-y), 2.0)]
    found = slope(lambda z: sum(w * make(z).kl(a).mean() for a, w in near), x)
    assert np.abs(found - anchor_error(make(x), near)).max() < 1e-6


@pytest.mark.parametrize("entropy, weight", [(0.2, 0.2), (0.2, 0.5)])
def test_the_soft_loss_has_the_stated_gradient(entropy, weight):
    mean, log, noise, old_mean, old_log, pull = RNG.normal(size=(6, ROWS, 2)) * 0.5

    def value(flat):
        m, g = flat[:, :2], flat[:, 2:]
        raw = m + np.exp(g) * noise
        a = np.tanh(raw)
        squash = np.log(1 - a * a)
        own = -0.5 * noise**2 - g - squash
        other = -0.5 * ((raw - old_mean) / np.exp(old_log)) ** 2 - old_log - squash
        return (weight * own + (entropy - weight) * other - np.sin(pull * a)).sum(axis=1).mean()

    action = np.tanh(mean + np.exp(log) * noise)
    given = soft_error(mean, log, noise, pull * np.cos(pull * action), (old_mean, old_log), entropy, weight)
    assert np.abs(slope(value, np.concatenate([mean, log], axis=1)) - given).max() < 1e-6


def test_without_its_last_policy_the_soft_loss_is_soft_actor_critic():
    mean, log, noise, push, a, b = RNG.normal(size=(6, ROWS, 2)) * 0.5
    one = soft_error(mean, log, noise, push, (a, b), 0.2, 0.2)
    two = soft_error(mean, log, noise, push, (b, a), 0.2, 0.2)
    assert np.abs(one - two).max() < 1e-12
    assert np.abs(one - soft_error(mean, log, noise, push, (a, b), 0.2, 0.5)).max() > 1e-3


def test_the_nash_loss_has_the_stated_gradient():
    logits = RNG.normal(size=WIDTH)
    reference, old = (Categorical(RNG.normal(size=(1, WIDTH))).params[0] for _ in range(2))
    better, worse = RNG.integers(WIDTH, size=(2, 30))
    weight = RNG.uniform(0.1, 1, 30)

    def value(z):
        margin = nash_margin(Categorical(z[None]).params[0], reference, old, better, worse, 0.1)
        return float((weight * (margin - 0.25) ** 2).sum() / weight.sum())

    new = Categorical(logits[None])
    margin = nash_margin(new.params[0], reference, old, better, worse, 0.1)
    given = nash_error(new.probs[0], margin, better, worse, 0.25, weight)
    assert np.abs(slope(value, logits) - given).max() < 1e-6
