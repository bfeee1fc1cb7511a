"""What a running peer says of its links: a row for each peer, and whether the clocks agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from flocklet.discovery import PeerTable
from flocklet.identity.key import format_id
from flocklet.link.link import Link

__all__ = ["clock_problems", "peer_rows"]

_CLOCKS_COMPARED = 3
_CLOCK_OFF_S = 600.0
_CLOCK_UNSET_S = 1.6e9  # 2020: no clock that was ever set shows less


def peer_rows(
    table: PeerTable, links: Mapping[bytes, Link], now_s: float, started_s: float
) -> list[dict[str, Any]]:
    """Return every peer that is known, linked ones first; times are seconds of the monotonic clock."""
    rows = []
    for record in [*table.peers(), *table.foreign()]:
        link = links.get(record.device_id) if record.device_id else None
        rows.append(
            {
                "id": format_id(record.device_id) if record.device_id else None,
                "short": record.hint or record.display(),
                "addresses": [str(address) for address in record.addresses],
                "sources": sorted(str(kind) for kind in record.sources),
                "is_linked": link is not None and not link.is_closed,
                "is_foreign": record.is_foreign,
                "liveness": str(table.liveness(record, now_s)),
                "rtt_ms": None if link is None or link.rtt_s is None else round(link.rtt_s * 1000, 2),
                "found_after_s": round(record.first_seen_s - started_s, 3),
                "clock_ahead_s": None if link is None else link.clock_ahead_s,
                "problem": record.problem,
            }
        )
    return sorted(rows, key=lambda row: (not row["is_linked"], row["is_foreign"], row["short"]))


def clock_problems(links: Mapping[bytes, Link], time_s: float) -> list[str]:
    """Compare clocks with three linked peers or more: their median tells whose is wrong. It decides nothing."""
    ahead = [link.clock_ahead_s for link in links.values() if link.clock_ahead_s is not None]
    if time_s < _CLOCK_UNSET_S:
        return ["the clock of this device is not set"]
    off_s = float(np.median(ahead)) if len(ahead) >= _CLOCKS_COMPARED else 0.0
    if abs(off_s) <= _CLOCK_OFF_S:
        return []
    way = "behind" if off_s > 0 else "ahead of"
    return [f"the clock of this device is {abs(off_s) / 60:.0f} minutes {way} those of its peers"]
