"""The whole judgement of one policy on one vehicle: hovering, figure-eights at 100 Hz and by the 500 Hz rule.

`judge` flies, `Verdict.to_json` is the document that `flocklet fly eval --json` prints: the same seeds, the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flocklet.models.flight.judge.evaluate import PERIODS_S, SEEDS, Hover, Track, figure_eights, hover
from flocklet.models.flight.sim.control_loop import Actor
from flocklet.models.flight.sim.dynamics import Vehicle

__all__ = ["Verdict", "judge"]

Told = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Verdict:
    """Results of one policy on one vehicle; `fast_eights` were flown by the 500 Hz rule, `more` goes into the JSON."""

    policy: str
    vehicle: str
    seeds: tuple[int, ...]
    hover: Hover
    eights: Mapping[float, Track]
    fast_eights: Mapping[float, Track] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the document; None stands where nothing survived to be measured."""
        found: dict[str, Any] = {
            "policy": self.policy,
            "vehicle": self.vehicle,
            "seeds": list(self.seeds),
            "hover": self.hover.summary(),
            "figure8": {f"{period:g}": track.summary() for period, track in self.eights.items()},
        }
        if self.fast_eights:
            found["figure8_500hz"] = {f"{T:g}": track.summary() for T, track in self.fast_eights.items()}
        if len(self.seeds) > 1:
            found["per_seed"] = {str(seed): self.hover.of_seed(seed).summary() for seed in self.seeds}
        return {**found, **self.more}


def judge(
    policy: Actor,
    vehicle: Vehicle,
    *,
    names: tuple[str, str] = ("policy", "vehicle"),
    seeds: Sequence[int] = SEEDS,
    episodes: int = 100,
    periods_s: Sequence[float] = PERIODS_S,
    is_noisy: bool = True,
    with_fast: bool = True,
    record: int = 0,
    told: Told = lambda _: None,
) -> Verdict:
    """Fly the protocol: `episodes` hovers per seed, a figure-eight per seed and period at each rate.

    `names` are those of policy and vehicle; `record` keeps that many hovers and the first seed's figure-eights; `told`
    hears what is flown next.
    """
    told("hovering")
    still = hover(policy, vehicle, seeds=seeds, episodes=episodes, is_noisy=is_noisy, record=record)
    eights: list[Mapping[float, Track]] = [{}, {}]
    for fast in (False, True)[: 2 if with_fast else 1]:
        told(f"figure-eights at {500 if fast else 100} Hz")
        eights[fast] = figure_eights(
            policy,
            vehicle,
            periods_s=periods_s,
            seeds=seeds,
            is_firmware_rate=fast,
            is_noisy=is_noisy,
            record=record > 0,
        )
    return Verdict(*names, tuple(seeds), still, eights[0], eights[1])
