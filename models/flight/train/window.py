"""One window of flight: fly it, and get the exact gradient of its mean cost with respect to the policy.

A `Flight` holds the vehicles of one thread with all their buffers. It starts each window where the last one ended.
Arrays are struct of arrays: bodies (17, n), targets (steps + 1, 6, n), vehicles (24, n), disturbances (6, n).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.kernels.compile.executable import Executable, aligned
from flocklet.kernels.kernel import Tile
from flocklet.kernels.program import Program
from flocklet.models.flight.sim.dynamics import ACTIONS, STATES
from flocklet.models.flight.train.bptt_programs import (
    CHUNK,
    HISTORY,
    NET,
    Shape,
    adam_program,
    backward_program,
    forward_program,
    weights_program,
)
from flocklet.models.flight.train.cost import Cost
from flocklet.models.flight.train.time_step import DISTURBANCES, PITCH, SEEN, TARGETS, VEHICLE

__all__ = ["Flight", "Programs", "turn_weights"]

Floats = NDArray[Any]
_HIDDEN = 64
_NAMES = {"forward": forward_program, "backward": backward_program, "weights": weights_program}


class Programs:
    """The programs of a shape, compiled once; `executables` and `adam` give private copies.

    Compilers run side by side, the generator of their C one program at a time.
    """

    def __init__(self, shape: Shape, *, is_native: bool = True) -> None:
        self.shape = shape
        self._programs: dict[str, Program] = {name: make(shape) for name, make in _NAMES.items()}
        self._programs["adam"] = adam_program()
        if not is_native:
            self._made = {name: program.interpret() for name, program in self._programs.items()}
            return
        turn = threading.Lock()
        for program in self._programs.values():
            vars(program)["source"] = _in_turn(turn, program.source)
        with ThreadPoolExecutor(len(self._programs)) as pool:
            jobs = {name: pool.submit(program.compile) for name, program in self._programs.items()}
            self._made = {name: job.result() for name, job in jobs.items()}

    @property
    def backend(self) -> str:
        """Return "native" if all are compiled, else "numpy"."""
        return "native" if all(x.backend == "native" for x in self._made.values()) else "numpy"

    def executables(self) -> list[Executable]:
        """Return forward, backward and weights with buffers of their own."""
        return [self._copy(name) for name in _NAMES]

    def adam(self) -> Executable:
        """Return the optimiser with buffers of its own."""
        return self._copy("adam")

    def _copy(self, name: str) -> Executable:
        made = self._made[name]
        return Executable(
            self._programs[name], library=made.library, compiler=made.compiler, reason=made.reason
        )


def _in_turn(turn: threading.Lock, source: Callable[[Tile], str]) -> Callable[[Tile], str]:
    def locked(tile: Tile) -> str:
        with turn:
            return source(tile)

    return locked


def turn_weights(params: Floats) -> list[Floats]:
    """Return the transposed weights of each layer, flat: what the backward pass reads."""
    out = []
    for layer in NET.layers:
        weights = params[layer.weights : layer.bias].reshape(layer.inputs, layer.outputs)
        out.append(np.ascontiguousarray(weights.T).reshape(-1))
    return out


class Flight:
    """The vehicles of one thread. `dtype` float64 needs the NumPy twins (the oracle of the tests)."""

    def __init__(self, programs: Programs, dtype: Any = np.float32) -> None:
        shape = self.shape = programs.shape
        self.forward, self.backward, self.weights = programs.executables()
        n, longest = shape.rows, shape.longest
        self.dtype = np.dtype(dtype)

        def zeros(*size: int) -> Floats:
            count = int(np.prod(size))
            return (aligned(count) if dtype == np.float32 else np.zeros(count, dtype)).reshape(size)

        self.states = zeros(longest + 1, STATES, n)
        self.targets = zeros(longest + 1, TARGETS, n)
        self.noise = zeros(longest, SEEN, n)
        self.vehicles = zeros(VEHICLE, n)
        self.disturbances = zeros(DISTURBANCES, n)
        self.by_row = zeros(n, shape.stride // ACTIONS, ACTIONS)
        self.by_time = zeros(longest + HISTORY, n, ACTIONS)
        self.pull = zeros(n, shape.stride // ACTIONS, ACTIONS)
        self.costs = zeros(longest, n)
        self.cost = zeros(Cost.count())
        self.flow, self.dseen = zeros(STATES, n), zeros(n, SEEN)
        self.grads = zeros(NET.count)
        self.own, self.bias2 = zeros(PITCH, _HIDDEN), zeros(ACTIONS, _HIDDEN)
        self.dz3 = zeros(longest, n, ACTIONS)
        ones = zeros(CHUNK * n * ACTIONS)
        ones[:] = 1.0
        kept = {
            "states": self.states,
            "targets": self.targets,
            "noise": self.noise,
            "vehicles": self.vehicles,
            "disturbances": self.disturbances,
            "by_row": self.by_row,
            "by_time": self.by_time,
            "pull": self.pull,
            "costs": self.costs,
            "cost": self.cost,
            "flow": self.flow,
            "dseen": self.dseen,
            "grads": self.grads,
            "own": self.own,
            "bias2": self.bias2,
            "dz3": self.dz3,
            "ones": ones,
            "seen": zeros(longest, n, PITCH),
            "h1": zeros(longest, n, _HIDDEN),
            "h2": zeros(longest, n, _HIDDEN),
            "slopes1": zeros(longest, n, _HIDDEN),
            "slopes2": zeros(longest, n, _HIDDEN),
            "slopes3": zeros(longest, n, ACTIONS),
        }
        for executable in (self.forward, self.backward, self.weights):
            for name in executable.buffers:
                if name in kept:
                    bind(executable, name, kept[name])
                elif dtype != np.float32:
                    executable.buffers[name] = executable.buffers[name].astype(dtype)

    def use(self, params: Floats, turned: Sequence[Floats]) -> None:
        """Fly with these parameters from now on (no copy is made)."""
        bind(self.forward, "params", params)
        bind(self.backward, "params", params)
        for i, weights in enumerate(turned, 1):
            bind(self.backward, f"turned{i}", weights)

    def hear(self, noise: Floats) -> None:
        """Observe with this noise (steps, 18, n) in the next window (no copy is made)."""
        bind(self.forward, "noise", noise)

    def fly(self, steps: int) -> float:
        """Fly `steps` steps from `states[0]`; return the mean cost per step and vehicle (times the cost's scale)."""
        self.forward.run(0, steps)
        return float(self.costs[:steps].mean())

    def gradient(self, steps: int) -> Floats:
        """Return the gradient (13828,) of the sum of the costs of the window that was flown, in an array of ours.

        `steps` must be a multiple of CHUNK.
        """
        for part in (self.flow, self.dseen, self.pull, self.grads, self.own, self.bias2):
            part.fill(0.0)
        self.backward.run(1 - steps, 1)
        self.weights.run(0, steps // CHUNK)
        first, second, third = NET.layers
        grads = self.grads
        grads[first.weights : first.weights + SEEN * _HIDDEN] = self.own[:SEEN].reshape(-1)
        grads[first.bias : first.bias + _HIDDEN] = self.own[SEEN]
        grads[second.bias : second.bias + _HIDDEN] = self.bias2[0]
        grads[third.bias :] = self.dz3[:steps].reshape(-1, ACTIONS).sum(axis=0)
        return grads

    def carry_on(self, steps: int) -> None:
        """Make the end of a window of `steps` the start of the next one."""
        self.states[0] = self.states[steps]
        self.by_row[:, :HISTORY] = self.by_row[:, steps : steps + HISTORY].copy()
        self.by_time[:HISTORY] = self.by_time[steps : steps + HISTORY].copy()

    def put(self, index: Any, bodies: Floats, history: Floats | float = 0.0) -> None:
        """Replace the vehicles `index` by fresh ones: bodies (17, k), history (k, 32, 4) or one number."""
        self.states[0][:, index] = bodies
        self.by_row[index, :HISTORY] = history
        self.by_time[:HISTORY, index] = (
            history if np.isscalar(history) else np.swapaxes(np.asarray(history), 0, 1)
        )


def bind(executable: Executable, name: str, array: Floats) -> None:
    """Bind float32 arrays as usual, and others where the NumPy twins run."""
    if array.dtype == np.float32:
        executable.bind(name, array)
    else:
        executable.buffers[name] = array.reshape(-1)
