"""What a policy says: a categorical or a normal distribution per row, with the gradients that learning needs.

`params` is one array (B, P): log-probabilities (P = A) or mean and log-deviation side by side (P = 2 K). Gradients are
with respect to the logits, or to mean and log-deviation, one row each, not averaged. KL divergences are taken over the
whole distribution, never from samples: a sampled one can be negative.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Categorical", "Distribution", "Normal", "Squashed"]

Floats: TypeAlias = NDArray[Any]

_NEVER = -1e9
_HALF_LOG_TWO_PI = 0.5 * float(np.log(2.0 * np.pi))
LOG_DEVIATION = (-5.0, 1.0)


class Distribution(Protocol):
    """One distribution per row."""

    params: Floats

    def sample(self, rng: np.random.Generator) -> NDArray[Any]:
        """Draw one action per row."""
        ...

    def mode(self) -> NDArray[Any]:
        """Return the most likely action per row."""
        ...

    def log_prob(self, action: NDArray[Any]) -> Floats:
        """Return log pi(action), (B,)."""
        ...

    def entropy(self) -> Floats:
        """Return the entropy, (B,)."""
        ...

    def kl(self, other: Any) -> Floats:
        """Return KL(self, other), (B,)."""
        ...

    def log_prob_gradient(self, action: NDArray[Any]) -> Floats:
        """Return d log pi(action) / d parameters, (B, P)."""
        ...

    def entropy_gradient(self) -> Floats:
        """Return d entropy / d parameters, (B, P)."""
        ...

    def kl_gradient(self, other: Any) -> Floats:
        """Return d KL(self, other) / d parameters of self, (B, P)."""
        ...

    def fisher(self, direction: Floats) -> Floats:
        """Return the Fisher matrix of the parameters times `direction` (B, P)."""
        ...


class Categorical:
    """A choice among A actions; `params` (B, A) are log-probabilities."""

    def __init__(self, logits: Floats, allowed: NDArray[np.bool_] | None = None) -> None:
        if allowed is not None:
            logits = np.where(allowed, logits, np.asarray(_NEVER, logits.dtype))
        shifted = logits - logits.max(axis=-1, keepdims=True)
        weights = np.exp(shifted)
        total = weights.sum(axis=-1, keepdims=True)
        self.params: Floats = shifted - np.log(total)
        self.probs: Floats = weights / total

    def sample(self, rng: np.random.Generator) -> NDArray[np.int32]:
        """Draw by inverting the distribution function: one uniform number per row."""
        edges = self.probs.cumsum(axis=-1)
        at = (rng.random((len(edges), 1)) * edges[:, -1:] >= edges).sum(axis=-1)
        return np.asarray(np.minimum(at, edges.shape[1] - 1), np.int32)

    def mode(self) -> NDArray[np.int32]:
        """Return the most likely action; the first of equals."""
        return np.asarray(self.params.argmax(axis=-1), np.int32)

    def log_prob(self, action: NDArray[Any]) -> Floats:
        """Return log pi(action), (B,)."""
        chosen: Floats = np.take_along_axis(self.params, action[:, None], axis=1)[:, 0]
        return chosen

    def entropy(self) -> Floats:
        """Return the entropy in nats, (B,)."""
        return np.asarray(-(self.probs * self.params).sum(axis=-1))

    def kl(self, other: Categorical) -> Floats:
        """Return KL(self, other), (B,)."""
        return np.asarray((self.probs * (self.params - other.params)).sum(axis=-1))

    def log_prob_gradient(self, action: NDArray[Any]) -> Floats:
        """Return onehot(action) - p."""
        out = -self.probs
        out[np.arange(len(out)), action] += 1.0
        return out

    def entropy_gradient(self) -> Floats:
        """Return -p (log p + H)."""
        return np.asarray(-self.probs * (self.params + self.entropy()[:, None]))

    def kl_gradient(self, other: Categorical) -> Floats:
        """Return p (l - sum p l) with l = log p - log q."""
        gap = self.params - other.params
        return np.asarray(self.probs * (gap - (self.probs * gap).sum(axis=-1, keepdims=True)))

    def fisher(self, direction: Floats) -> Floats:
        """Return (diag p - p p') direction."""
        weighted = self.probs * direction
        return np.asarray(weighted - self.probs * weighted.sum(axis=-1, keepdims=True))


class Normal:
    """K independent normal controls; `params` (B, 2 K) are mean and log-deviation, the latter clipped to [-5, 1].

    Gradients pass through the clip, so that a log-deviation beyond it can come back.
    """

    def __init__(self, params: Floats) -> None:
        width = params.shape[-1] // 2
        self.mean = params[..., :width]
        self.log_deviation = np.clip(params[..., width:], *LOG_DEVIATION)
        self.params: Floats = np.concatenate([self.mean, self.log_deviation], axis=-1)

    def sample(self, rng: np.random.Generator) -> Floats:
        """Draw one action per row, not clipped: the environment clips, log_prob is of what was drawn."""
        noise = rng.standard_normal(self.mean.shape).astype(self.mean.dtype)
        return np.asarray(self.mean + np.exp(self.log_deviation) * noise)

    def mode(self) -> Floats:
        """Return the mean."""
        return np.asarray(self.mean)

    def log_prob(self, action: NDArray[Any]) -> Floats:
        """Return the log density at `action` (B, K)."""
        scaled = (action - self.mean) * np.exp(-self.log_deviation)
        return np.asarray((-0.5 * scaled * scaled - self.log_deviation - _HALF_LOG_TWO_PI).sum(axis=-1))

    def entropy(self) -> Floats:
        """Return the entropy in nats, (B,)."""
        return np.asarray((self.log_deviation + 0.5 + _HALF_LOG_TWO_PI).sum(axis=-1))

    def kl(self, other: Normal) -> Floats:
        """Return KL(self, other), (B,)."""
        ratio = np.exp(2.0 * (self.log_deviation - other.log_deviation))
        gap = (self.mean - other.mean) * np.exp(-other.log_deviation)
        return np.asarray(
            (other.log_deviation - self.log_deviation + 0.5 * (ratio + gap * gap - 1.0)).sum(axis=-1)
        )

    def log_prob_gradient(self, action: NDArray[Any]) -> Floats:
        """Return (a - mu)/sigma^2 and ((a - mu)/sigma)^2 - 1."""
        inverse = np.exp(-self.log_deviation)
        scaled = (action - self.mean) * inverse
        return np.concatenate([scaled * inverse, scaled * scaled - 1.0], axis=-1)

    def entropy_gradient(self) -> Floats:
        """Return 0 for the mean and 1 for the log-deviation."""
        return np.concatenate([np.zeros_like(self.mean), np.ones_like(self.mean)], axis=-1)

    def kl_gradient(self, other: Normal) -> Floats:
        """Return (mu - mu')/sigma'^2 and sigma^2/sigma'^2 - 1."""
        inverse = np.exp(-2.0 * other.log_deviation)
        ratio = np.exp(2.0 * (self.log_deviation - other.log_deviation))
        return np.concatenate([(self.mean - other.mean) * inverse, ratio - 1.0], axis=-1)

    def fisher(self, direction: Floats) -> Floats:
        """Return diag(1/sigma^2, 2) direction."""
        width = self.mean.shape[-1]
        scaled = direction[..., :width] * np.exp(-2.0 * self.log_deviation)
        return np.concatenate([scaled, 2.0 * direction[..., width:]], axis=-1)


class Squashed(Normal):
    """Normal controls pressed into (-1, 1) by tanh; KL, entropy and Fisher matrix are those before the tanh."""

    def sample(self, rng: np.random.Generator) -> Floats:
        """Draw one action per row."""
        return np.tanh(super().sample(rng))

    def mode(self) -> Floats:
        """Return the tanh of the mean."""
        return np.tanh(self.mean)

    def log_prob(self, action: NDArray[Any]) -> Floats:
        """Return the log density at `action` (B, K) in (-1, 1)."""
        raw = _unpressed(action)
        return np.asarray(super().log_prob(raw) - np.log(1.0 - np.tanh(raw) ** 2 + 1e-12).sum(axis=-1))

    def log_prob_gradient(self, action: NDArray[Any]) -> Floats:
        """Return the gradient of a normal at the number before the tanh."""
        return super().log_prob_gradient(_unpressed(action))


def _unpressed(action: NDArray[Any]) -> Floats:
    most = 1.0 - 1e-6
    return np.asarray(np.arctanh(np.clip(action, -most, most)))
