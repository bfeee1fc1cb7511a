"""Limit how often something happens: a token bucket without a clock of its own."""

from __future__ import annotations

__all__ = ["TokenBucket"]


class TokenBucket:
    """Allow `rate_per_s` on average and `burst` at once; time in seconds comes as an argument and never
    goes back.
    """

    __slots__ = ("_burst", "_last_s", "_rate_per_s", "_tokens")

    def __init__(self, rate_per_s: float, burst: float) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._tokens = burst
        self._last_s: float | None = None

    def take(self, now_s: float, cost: float = 1.0) -> bool:
        """Take `cost` tokens; False, and nothing is taken, when there are fewer."""
        if self._last_s is not None:
            gained = max(0.0, now_s - self._last_s) * self._rate_per_s
            self._tokens = min(self._burst, self._tokens + gained)
        self._last_s = now_s
        if self._tokens < cost:
            return False
        self._tokens -= cost
        return True
