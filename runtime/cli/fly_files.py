"""Where policies and vehicles are kept: read them from files, and fly an export in its emulated microcontroller.

A policy file is any ONNX file of dense layers that takes 146 values and gives 4 (what `flocklet fly train` writes, or
another trainer's). A vehicle file is TOML with the keys of docs/flight.md.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import ConfigError, ExportError, MissingExtra, VerificationError
from flocklet.models.flight.judge.evaluate import PERIODS_S, figure_eights, hover
from flocklet.models.flight.judge.verdict import Verdict
from flocklet.models.flight.policy import Layer, Policy
from flocklet.models.flight.sim.dynamics import Vehicle
from flocklet.models.flight.sim.vehicle import NAMED, parse

if TYPE_CHECKING:
    from flocklet.firmware_export.export import Artifact

__all__ = ["EmulatedActor", "fly_firmware", "read_policy", "read_vehicle"]

_KINDS = {"identity": "none", "tanh": "tanh", "fast_tanh": "fast_tanh", "relu": "relu", "sigmoid": "sigmoid"}
_SEEN = 18
_RULE_PERIOD = 5


def read_policy(path: Path | str, *, activation: str | None = None) -> Policy:
    """Return the policy of an ONNX file; `activation` says what Tanh in it stands for, as for `flocklet export`.

    Raise ExportError, one line, for a file that holds no policy for this observation and these actions.
    """
    from flocklet.firmware_export.read.network import Dense
    from flocklet.firmware_export.read.onnx_reader import read

    layers: list[Layer] = []
    for i, layer in enumerate(read(path, activation=activation).layers):
        if not isinstance(layer, Dense):
            raise ExportError(f"layer {i} of {path} is no dense layer; the flight simulator knows no other")
        kind = _KINDS.get(layer.activation.kind)
        if kind is None:
            raise ExportError(
                f"layer {i} of {path} has the activation '{layer.activation.kind}'",
                remedy=f"the flight simulator knows {', '.join(_KINDS)}",
            )
        layers.append((layer.weight, layer.bias, kind))
    return Policy(tuple(layers))


def read_vehicle(name: str) -> tuple[str, Vehicle]:
    """Return name and vehicle for one of `NAMED` or a TOML file; raise ConfigError for what cannot fly."""
    if name in NAMED:
        return name, NAMED[name]
    path = Path(name)
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name} is no TOML file: {error}", remedy="docs/flight.md shows one") from error
    except OSError as error:
        raise ConfigError(
            f"there is no vehicle '{name}': {error.strerror}",
            remedy=f"give a TOML file or one of {', '.join(NAMED)}",
        ) from error
    try:
        vehicle = parse(given)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}", remedy=error.remedy) from error
    return str(given.get("name", path.stem)), vehicle


class EmulatedActor:
    """One vehicle's controller that sees the 18 observed values and keeps its own history: firmware, or its twin."""

    def __init__(self, step: Any, restart: Any) -> None:
        self._step, self._restart = step, restart
        self.ticks = 0

    def reset(self) -> None:
        """Start the controller anew."""
        self._step = self._restart(self._step)

    def __call__(self, observation: NDArray[Any]) -> NDArray[Any]:
        """Return the action (1, 4) for an observation (1, 146)."""
        self.ticks += 1
        return np.asarray(self._step(observation[0, :_SEEN].astype(np.float32)))[None]


def _actors(artifact: Artifact, core: str) -> tuple[EmulatedActor, EmulatedActor, str]:
    """Return the emulated image and its NumPy twin, and the compiler that made the image."""
    from flocklet.firmware_export.verify import unicorn_engine
    from flocklet.firmware_export.verify.processor_in_loop import Firmware, reference_policy
    from flocklet.firmware_export.verify.toolchain import available

    compiler = next((cc for cc in ("gcc", "zig") if available(cc)), None)
    if compiler is None:
        raise MissingExtra("ziglang", "firmware", "flying the firmware")
    if not unicorn_engine.available():
        raise MissingExtra("unicorn", "firmware", "flying the firmware")

    def again(firmware: Firmware) -> Firmware:
        firmware.reset()
        return firmware

    image = EmulatedActor(Firmware(artifact, core=core, compiler=compiler), again)
    return image, EmulatedActor(None, lambda _: reference_policy(artifact)), compiler


def fly_firmware(
    directory: Path,
    vehicle: Vehicle,
    *,
    vehicle_name: str = "vehicle",
    core: str = "cortex-m4",
    seeds: Sequence[int] = (0,),
    periods_s: Sequence[float] = PERIODS_S,
    seconds: float = 5.0,
    record: int = 0,
) -> Verdict:
    """Fly an export in its emulated core: a hover and the figure-eights per seed, then the same in NumPy.

    An export whose history moves on at every fifth call flies at 500 Hz, any other at 100 Hz. Raise VerificationError
    where a trajectory of the firmware is not, bit for bit, that of the NumPy controller.
    """
    from flocklet.firmware_export.export import load_artifact
    from flocklet.models.flight.sim.environment import DT_S, Options

    artifact = load_artifact(directory)
    plan = artifact.plan
    if plan.obs.state != _SEEN or plan.network.n_out != 4:
        raise ExportError(
            f"{directory} sees {plan.obs.state} values and gives {plan.network.n_out} actions, not {_SEEN} and 4"
        )
    fast = plan.obs.period == _RULE_PERIOD
    flights, bits, ticks, compiler = [], [], 0, ""
    image, twin, compiler = _actors(artifact, core)
    for actor in (image, twin):
        options = Options(steps=round(seconds / DT_S))
        hovers = [
            hover(actor, vehicle, seeds=[s], episodes=1, options=options, is_firmware_rate=fast, record=1)
            for s in seeds
        ]
        eights = {
            period: [
                figure_eights(
                    actor, vehicle, periods_s=[period], seeds=[s], is_firmware_rate=fast, record=True
                )
                for s in seeds
            ]
            for period in periods_s
        }
        flown = [h.flight for h in hovers] + [f[T].flight for T, each in eights.items() for f in each]
        bits.append([np.concatenate([f.bodies, f.actions], axis=2).tobytes() for f in flown])
        flights.append((hovers, eights))
        ticks = actor.ticks
    if bits[0] != bits[1]:
        raise VerificationError("the firmware did not fly as the NumPy controller does, bit for bit")
    hovers, eights = flights[0]
    joined = {T: _joined([f[T] for f in each]) for T, each in eights.items()}
    more = {"firmware": {"core": core, "compiler": compiler, "ticks": ticks, "is_same_bits": True}}
    return Verdict(
        str(directory),
        vehicle_name,
        tuple(seeds),
        _joined(hovers),
        {} if fast else joined,
        joined if fast else {},
        more,
    )


def _joined(parts: Sequence[Any]) -> Any:
    """Return results of several seeds as one; the recorded flight is the first one's."""
    from dataclasses import fields, replace

    names = [field.name for field in fields(parts[0]) if field.name != "flight"]
    axis = {"error": 1}
    return replace(
        parts[0],
        **{n: np.concatenate([getattr(p, n) for p in parts], axis=axis.get(n, 0)) for n in names},
    )
