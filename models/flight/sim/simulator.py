"""Many vehicles at once, from Python: arrays that are views on the kernels' buffers, one compiled call per turn.

The turn itself is `flocklet.models.flight.sim.compiled`; here are its memory, its time line and its seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flocklet.kernels.compile.compilers import Compiler
from flocklet.kernels.compile.executable import Executable, aligned
from flocklet.kernels.noise import seed_keys
from flocklet.models.flight.sim.compiled import FRESH_TURNS, Layout, turn_program
from flocklet.models.flight.sim.dynamics import ACTIONS, CRAZYFLIE, Vehicle
from flocklet.models.flight.sim.task import HISTORY, Settings, vehicle_numbers

__all__ = ["Simulator"]

Floats = NDArray[np.float32]


class Simulator:
    """`n` vehicles that fly in one compiled call per turn (or per many turns), restarting by themselves or on request.

    All arrays are views on the kernels' buffers, batch first: `body` (n, 17), `force`, `torque` (n, 3), `age` (n,),
    `reward`, `terminated`, `truncated` (n,), `core` (n, 18: what the policy senses now), `after` (n, 18: the same right
    after the step, before any reset), `privileged` (n, 28, after the step), `action` (n, 4: write the coming action
    here), `history` (n, 128). The seed is drawn from `rng`; a batch cut in two with `first_row` gives the same numbers.
    `is_lean` leaves `after` and `privileged` out (for a policy that only acts).
    One Simulator must not run twice at the same time; several, each in its thread, use several cores.
    """

    def __init__(
        self,
        n: int,
        rng: np.random.Generator,
        *,
        vehicle: Vehicle = CRAZYFLIE,
        settings: Settings | None = None,
        capacity: int = 256,  # turns before the time line begins again
        first_row: int = 0,
        is_lean: bool = False,
        compilers: Sequence[Compiler] | None = None,
    ) -> None:
        numbers = [np.asarray(x, np.float32) for x in vehicle_numbers(vehicle)]
        is_shared = all(x.ndim == 0 for x in numbers)
        self.n, self.first_row, self.layout, self.capacity = n, first_row, Layout.of(n), capacity
        self._cursor = self._turns = 0
        self._programs: dict[str, Executable] = {}
        self._compilers, self._vehicle = compilers, vehicle if is_shared else None
        self._line = self.layout.size(ACTIONS)
        self._is_lean = is_lean
        sizes = turn_program(n, vehicle=self._vehicle).sizes
        self._arrays = {name: aligned(size) for name, size in sizes.items()}
        self._log = self._arrays["log"] = aligned(self._line * (1 + HISTORY + capacity))
        self._lines = self._log.reshape(-1, ACTIONS, self.layout.stride)[:, :, :n]
        self._arrays["lane"][:n] = np.arange(first_row, first_row + n)
        self._arrays["clock"][:2] = seed_keys(rng)
        if not is_shared:
            planes = self._arrays["vehicle"].reshape(-1, self.layout.stride)
            for plane, x in zip(planes, numbers, strict=True):
                plane[:] = x.reshape(-1)[0]
                plane[:n] = np.broadcast_to(x.reshape(-1), (n,))
        self.configure(settings or Settings())
        self.body, self.core = self._rows("body"), self._rows("core")
        self.after, self.privileged = self._rows("after"), self._rows("privileged")
        self.force, self.torque = self._rows("push")[:, :3], self._rows("push")[:, 3:]
        self.age, self.reward = self._rows("age")[:, 0], self._rows("reward")[:, 0]
        self.terminated, self.truncated = self._rows("ends")[:, 0], self._rows("ends")[:, 1]
        self._bound("fresh")
        self.backend = self._bound("advance renew").backend
        self.reset()

    def configure(self, settings: Settings) -> None:
        """Change the numbers of the task from the next turn on (curriculum, evaluation, other initial states)."""
        self._arrays["settings"][:] = settings.numbers()

    @property
    def action(self) -> Floats:
        """The coming actions, (n, 4), to be written before a turn; they are held inside [-1, 1] then."""
        self._make_room(1)
        return self._window(self._cursor + HISTORY, 1)

    @property
    def history(self) -> Floats:
        """The last 32 actions, (n, 128), oldest first; zeros before the episode began."""
        return self._window(self._cursor, HISTORY)

    def plan(self, turns: int) -> Floats:
        """Return the actions of the next `turns` turns to be written, (turns, 4, n); wraps the time line if needed."""
        self._make_room(turns)
        first = 1 + self._cursor + HISTORY
        return self._lines[first : first + turns]

    def observe(self) -> Floats:
        """Return a copy of the policy's whole observation, (n, 146)."""
        return np.concatenate([self.core, self.history], axis=1)

    def turn(self, turns: int = 1) -> None:
        """Fly `turns` turns; rows that end start afresh within their turn."""
        self._run("advance renew", turns)

    def advance(self) -> None:
        """Fly one step and reset nothing: the caller looks at how it ended, then calls `renew`."""
        self._run("advance", 1)

    def renew(self) -> None:
        """Give the rows whose `terminated` or `truncated` is not 0 a fresh initial state; read `core` anew for all."""
        self._run("renew", 0)

    def reset(self) -> None:
        """Give every row a fresh initial state."""
        self._arrays["ends"][:] = 1.0
        self._arrays["clock"][3] += 1.0
        self._programs["fresh"]()
        self.renew()
        self._arrays["ends"][:] = 0.0

    def _run(self, parts: str, turns: int) -> None:
        program = self._programs.get(parts) or self._bound(parts)
        if turns == 0:
            program.run(self._cursor - 1, self._cursor)
            return
        self._make_room(turns)
        while turns:
            count = min(turns, FRESH_TURNS - self._turns % FRESH_TURNS)
            if self._turns % FRESH_TURNS == 0:
                self._programs["fresh"]()
            program.run(self._cursor, self._cursor + count)
            self._cursor += count
            self._turns += count
            turns -= count

    def _make_room(self, turns: int) -> None:
        """Begin the time line again when it is full: its last window becomes its first."""
        if turns > self.capacity:
            raise ValueError(f"{turns} turns at once exceed the capacity of {self.capacity}")
        if self._cursor + turns > self.capacity:
            self._flat(0, HISTORY)[:] = self._flat(self._cursor, HISTORY).copy()
            self._cursor = 0

    def _flat(self, first: int, rows: int) -> Floats:
        start = (1 + first) * self._line
        return self._log[start : start + rows * self._line]

    def _window(self, first: int, rows: int) -> Floats:
        flat = self._flat(first, rows)
        return flat.reshape(rows * ACTIONS, self.layout.stride)[:, : self.n].T

    def _rows(self, name: str) -> Floats:
        planes, stride = self._arrays[name], self.layout.stride
        count = planes.size // stride
        return planes[: count * stride].reshape(count, stride)[:, : self.n].T

    def _bound(self, parts: str) -> Executable:
        program = turn_program(self.n, vehicle=self._vehicle, parts=parts, is_lean=self._is_lean)
        run = program.compile(compilers=self._compilers)
        for name in run.buffers:
            run.bind(name, self._arrays[name])
        run.admit(-1 if parts == "renew" else 0, 1 if parts == "fresh" else self.capacity)
        self._programs[parts] = run
        return run
