"""Whose events this device forgot for good: the people of devices that were removed with `--drop`."""

from __future__ import annotations

from collections.abc import Callable

from flocklet.device.clicks import Clicks
from flocklet.device.recommender import Taste
from flocklet.events.click import ORIGIN_SIZE
from flocklet.store.store import Store

__all__ = ["Banishment"]

_KEY = "banished"


class Banishment:
    """Keep the origins of which nothing is taken again, in the store."""

    def __init__(self, store: Store, clicks: Clicks, taste: Callable[[], Taste]) -> None:
        held = store.get_meta(_KEY) or b""
        self.origins = {held[i : i + ORIGIN_SIZE] for i in range(0, len(held), ORIGIN_SIZE)}
        self._store = store
        self._clicks = clicks
        self._taste = taste
        clicks.log.banish(self.origins)

    def drop(self, device_id: bytes) -> int:
        """Forget what a removed device and the people it vouched for clicked, rated and trusted; return how much went.

        Whom people here trust stays.
        """
        origins = self._taste().answered_for_by(device_id)
        self.origins |= origins
        self._store.set_meta(_KEY, b"".join(sorted(self.origins)))
        return self._clicks.banish(origins) + self._taste().banish(origins)
