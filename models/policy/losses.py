"""The loss switch: how a minibatch's gradient with respect to the distribution's parameters is made.

Nothing else differs between the trainers. Gradients are those of the mean over rows; with rho = pi/pi_old and A the
standardised advantage:

    a2c    -A log pi
    ppo    -min(rho A, clip(rho, 1 - eps, 1 + eps) A)        (Schulman et al. 2017)
    mdpo   -rho A + weight KL(pi, pi_k)                      (Tomar et al. 2020, the KL over the whole distribution)
    nash   (h - 1/(2 eta))^2 on pairs, `nash_error`          (Zhang et al. 2024)
    soft   c log pi + (lam - c) log pi_k - Q, `soft_error`   (Tomar et al. 2020; c = lam is SAC)

An anchor is a policy to stay near: weight times KL(pi, anchor). MDPO's own last policy, a flying policy and a
reference are one term.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flocklet.models.policy.distribution import Distribution

__all__ = ["LOSSES", "Loss", "anchor_error", "loss", "nash_error", "nash_margin", "soft_error"]

Floats: TypeAlias = NDArray[Any]
Loss: TypeAlias = Callable[[Distribution, Distribution, NDArray[Any], Floats, float], Floats]
"""(new, old, action (B,), advantage (B,), parameter) -> d loss / d parameters (B, P), averaged over rows."""


def _policy_term(new: Distribution, action: NDArray[Any], weight: Floats) -> Floats:
    return np.asarray(new.log_prob_gradient(action) * (-weight / np.float32(len(weight)))[:, None])


def _ratio(new: Distribution, old: Distribution, action: NDArray[Any]) -> Floats:
    return np.asarray(np.exp(np.clip(new.log_prob(action) - old.log_prob(action), -20.0, 20.0)))


def _a2c(new: Distribution, old: Distribution, action: NDArray[Any], advantage: Floats, _: float) -> Floats:
    return _policy_term(new, action, advantage)


def _ppo(
    new: Distribution, old: Distribution, action: NDArray[Any], advantage: Floats, clip: float
) -> Floats:
    ratio = _ratio(new, old, action)
    is_held = ((advantage > 0) & (ratio > 1.0 + clip)) | ((advantage < 0) & (ratio < 1.0 - clip))
    return _policy_term(new, action, np.where(is_held, 0.0, ratio * advantage).astype(advantage.dtype))


def _mdpo(
    new: Distribution, old: Distribution, action: NDArray[Any], advantage: Floats, weight: float
) -> Floats:
    pull = new.kl_gradient(old) * np.float32(weight / len(advantage))
    return _policy_term(new, action, _ratio(new, old, action) * advantage) + pull


LOSSES: dict[str, Loss] = {"a2c": _a2c, "ppo": _ppo, "mdpo": _mdpo}
"""The on-policy losses; the parameter is nothing, the clip, the weight of the KL."""


def loss(name: str) -> Loss:
    """Return the on-policy loss of that name; raise KeyError for another."""
    return LOSSES[name]


def anchor_error(new: Distribution, anchors: Sequence[tuple[Distribution, float]]) -> Floats:
    """Return d sum_i weight_i mean KL(new, anchor_i) / d parameters, (B, P)."""
    rows = np.float32(len(new.params))
    total = np.zeros_like(new.params)
    for anchor, weight in anchors:
        total += new.kl_gradient(anchor) * (np.float32(weight) / rows)
    return total


def nash_margin(
    new: Floats, reference: Floats, old: Floats, better: NDArray[Any], worse: NDArray[Any], pull: float
) -> Floats:
    """Return h (B,) for log-probabilities (K,) of the new policy, the reference and the last policy.

    h = log(pi(y)/pi(y')) - pull log(ref(y)/ref(y')) - (1 - pull) log(pi_t(y)/pi_t(y')), with pull = tau / eta.
    """
    mixed = new - pull * reference - (1.0 - pull) * old
    return np.asarray(mixed[better] - mixed[worse])


def nash_error(
    probs: Floats,
    margin: Floats,
    better: NDArray[Any],
    worse: NDArray[Any],
    step: Floats | float,
    weight: Floats,
) -> Floats:
    """Return d mean weight (h - step)^2 / d logits, (K,); `step` is 1/(2 eta).

    Of log pi(y) - log pi(y') the softmax's own part cancels, so each pair pushes its two answers only.
    """
    push = 2.0 * weight * (margin - step) / max(float(weight.sum()), 1e-12)
    width = len(probs)
    return np.asarray(np.bincount(better, push, minlength=width) - np.bincount(worse, push, minlength=width))


def soft_error(
    mean: Floats,
    log_deviation: Floats,
    noise: Floats,
    slope: Floats,
    old: tuple[Floats, Floats],
    entropy: float,
    weight: float,
) -> Floats:
    """Return d mean [c log pi(a|s) + (lam - c) log pi_k(a|s) - Q(s, a)] / d (mean, log-deviation), (B, 2 K).

    a = tanh u, u = mean + sigma noise; `slope` (B, K) is dQ/da; `old` = (mean, log-deviation) of pi_k; `entropy` is
    lam, `weight` is c. With c = lam pi_k drops out: that is SAC.
    """
    deviation = np.exp(log_deviation)
    raw = mean + deviation * noise
    action = np.tanh(raw)
    old_mean, old_log = old
    rest = entropy - weight
    pull = rest * (-(raw - old_mean) * np.exp(-2.0 * old_log) + 2.0 * action) if rest else 0.0
    to_mean = weight * 2.0 * action + pull - slope * (1.0 - action * action)
    to_log = to_mean * deviation * noise - weight
    return np.asarray(np.concatenate([to_mean, to_log], axis=1) / np.asarray(len(mean), mean.dtype))
