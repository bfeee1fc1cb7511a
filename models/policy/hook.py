"""Where a system plugs into the learner: five optional methods, no subclass trees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flocklet.models.policy.environment import Floats

if TYPE_CHECKING:
    from flocklet.models.policy.report import Report
    from flocklet.models.policy.rollout import Rollout

__all__ = ["Hook"]


class Hook:
    """Override what a system needs; every method here does nothing."""

    def levels(self, rng: np.random.Generator, n: int) -> Floats | None:
        """Return levels (n, L) of the worlds that start anew, or None for the environment's own."""
        return None

    def reward(self, run: Rollout) -> Floats | None:
        """Return other rewards (T, M, N, H) for a rollout, or None to leave them."""
        return None

    def advantages(self, run: Rollout, advantage: Floats) -> None:
        """Look at the critic's own advantages (T, M, N, H) before the update."""

    def after(self, report: Report) -> None:
        """Look at the report of a finished round."""

    def state(self) -> dict[str, Any]:
        """Return what the hook has learnt, as plain arrays."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Replace what the hook has learnt."""
