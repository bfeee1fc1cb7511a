"""Accept each author message once, whoever relays it and in whatever order (PROTOCOL.md, "Replay").

Per author: the nonce of the process that is running (`run`), the highest `seq` seen and a bit map of the 1024 below
it. No clock takes part. A frame of a new run proves nothing about its freshness when it is relayed: it passes only
if its `round` is newer than every round known of that author, or if the author's own link vouches for the run.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from flocklet.errors import WireError
from flocklet.wire.frame import Frame

__all__ = ["ReplayWindow"]

RETIRED_RUNS = 8


@dataclass
class _Author:
    run: bytes
    top: int = -1
    seen: int = 0  # bit i = (top - i) was seen
    round: int = -1
    retired: list[bytes] = field(default_factory=list)


class ReplayWindow:
    """Remember what was seen of each author; bounded in authors (least recently heard goes first) and in window."""

    def __init__(self, *, window: int = 1024, max_authors: int = 4096) -> None:
        self._window = window
        self._max_authors = max_authors
        self._authors: OrderedDict[bytes, _Author] = OrderedDict()

    def vouch(self, device_id: bytes, run: bytes) -> None:
        """Tell that `device_id` proved on its own link that it now runs as `run`."""
        known = self._authors.get(device_id)
        if known is None:
            self._add(device_id, _Author(run))
        elif known.run != run:
            self._start_run(known, run)

    def accept(self, frame: Frame) -> None:
        """Record an author message; raise WireError with reason `replay` (seen) or `stale` (too old to tell)."""
        run, seq = frame.header["run"], frame.header["seq"]
        round_ = frame.header.get("round", -1)
        known = self._authors.get(frame.author)
        if known is None:
            known = _Author(run)
            self._add(frame.author, known)
        elif run != known.run:
            if run in known.retired or round_ <= known.round:
                raise WireError("a message of an earlier run of its author", reason="stale")
            self._start_run(known, run)
        self._authors.move_to_end(frame.author)
        ahead = seq - known.top
        if ahead > 0:
            known.seen = (
                ((known.seen << ahead) | 1) & ((1 << self._window) - 1) if ahead < self._window else 1
            )
            known.top = seq
        elif -ahead >= self._window:
            raise WireError("a message older than the window of its author", reason="stale")
        elif known.seen >> -ahead & 1:
            raise WireError("a message that was seen before", reason="replay")
        else:
            known.seen |= 1 << -ahead
        known.round = max(known.round, round_)

    def _add(self, device_id: bytes, author: _Author) -> None:
        self._authors[device_id] = author
        if len(self._authors) > self._max_authors:
            self._authors.popitem(last=False)

    @staticmethod
    def _start_run(known: _Author, run: bytes) -> None:
        known.retired = [*known.retired, known.run][-RETIRED_RUNS:]
        known.run, known.top, known.seen = run, -1, 0
