"""How much of this device others may fill: per author, per device that brought it, and in all (docs/quotas.md).

Kept in the store's `meta`, so that they hold whoever opens it; `flocklet config set quota.NAME VALUE` changes one. People of
this device have no quota: what the owner did is never taken away to make room.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from flocklet.errors import UsageError
from flocklet.events.click_log import Limits
from flocklet.events.edge_pool import PageLimits
from flocklet.store.store import Store

__all__ = ["QUOTAS", "Quotas", "change_quota", "quotas_of"]

_MOST = 1 << 24


@dataclass(frozen=True, slots=True)
class Quotas:
    """Rows of tables. `clicks` and `edge_pages` are of strangers in all; friends share what is left of `all_clicks`."""

    clicks: int = 120_000
    all_clicks: int = 250_000
    clicks_of_author: int = 2_000
    people: int = 4_096
    people_of_device: int = 2_048
    edge_pages: int = 16_384
    edge_pages_of_author: int = 64
    edge_pages_of_device: int = 4_096
    deltas: int = 4_096
    peers: int = 512

    @property
    def limits(self) -> Limits:
        """The bounds of the log of clicks."""
        return Limits(
            quota=self.clicks_of_author,
            stranger_entries=self.clicks,
            max_entries=max(self.clicks, self.all_clicks),
            max_origins=self.people,
            max_introduced=self.people_of_device,
        )

    @property
    def pages(self) -> PageLimits:
        """The bounds of the pages of trust and ratings; friends have as many apart from strangers."""
        return PageLimits(
            self.edge_pages_of_author, self.edge_pages_of_device, self.edge_pages, friends=self.edge_pages
        )


QUOTAS: Mapping[str, str] = {
    "clicks": "clicks of strangers, in all",
    "all_clicks": "clicks of strangers and friends, in all",
    "clicks_of_author": "clicks of one person",
    "people": "strangers whose keys are known",
    "people_of_device": "of these, brought by one device",
    "edge_pages": "pages of trust and ratings of strangers (up to 3 kB each)",
    "edge_pages_of_author": "of these, of one person",
    "edge_pages_of_device": "of these, brought by one device",
    "deltas": "notes of what came from whom",
    "peers": "remembered peers",
}
"""What each quota bounds."""


def quotas_of(store: Store) -> Quotas:
    """Return the quotas of a home: those that were set, else the defaults."""
    kept = {field.name: store.get_meta(f"quota {field.name}") for field in fields(Quotas)}
    return replace(Quotas(), **{name: value for name, value in kept.items() if type(value) is int})


def change_quota(store: Store, name: str, value: int | None) -> int:
    """Keep another quota (None: the default again) and return it; raise UsageError for a name or value that is none."""
    if name not in QUOTAS:
        raise UsageError(f"there is no quota {name!r}", remedy=f"one of {', '.join(QUOTAS)}")
    if value is None:
        store.remove_meta(f"quota {name}")
    elif not 16 <= value <= _MOST:
        raise UsageError(f"a quota of {value} rows", remedy=f"16 to {_MOST}")
    else:
        store.set_meta(f"quota {name}", value)
    return int(getattr(quotas_of(store), name))
