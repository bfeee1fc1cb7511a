"""The list of what peers replicate with this device. A new kind of record is one module and one line here.

docs/add-an-event.md walks through it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from flocklet.device.click_feed import ClickFeed
from flocklet.device.delta_feed import DeltaFeed
from flocklet.device.device import Device
from flocklet.device.edge_feed import EdgeFeed
from flocklet.device.flock_feed import FlockFeed
from flocklet.events.feed import Feed

__all__ = ["FEEDS", "MakeFeed"]

MakeFeed: TypeAlias = Callable[[Device], Feed[Any]]
"""Make a feed over the state of a device."""

FEEDS: Sequence[MakeFeed] = (
    lambda device: FlockFeed(device.devices),
    lambda device: ClickFeed(device.clicks, device.clock, device.regard_friends, device.quotas.deltas),
    lambda device: EdgeFeed(device.taste),
    lambda device: DeltaFeed(device.lessons, device.trust_in),
)
