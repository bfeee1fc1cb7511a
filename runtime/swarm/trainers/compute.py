"""Where training runs: all simulated peers that are due, in one stacked computation; or one peer in a thread."""

from __future__ import annotations

import asyncio
from typing import Protocol, runtime_checkable

import numpy as np

from flocklet.models.layout import Vector
from flocklet.swarm.participant import Participant
from flocklet.swarm.protocols import Trainer
from flocklet.swarm.task import Rows, Task

__all__ = ["Batched", "Preparing", "Threaded", "computing"]


@runtime_checkable
class Preparing(Protocol):
    """A trainer that wants to compile before the clock runs."""

    def prepare(self, task: Task, rows: int) -> None:
        """Get ready to train peers that hold `rows` rows."""
        ...


def computing(trainer: Trainer, way: str) -> Trainer:
    """Return the trainer that computes with "numpy", "tinygrad" or on the "gpu"; raise UsageError for another way."""
    if way == "numpy":
        return trainer
    from flocklet.swarm.trainers.compiled import through

    return through(trainer, way)


class _Ticket:
    def __init__(self, start: Vector, rows: Rows, round: int) -> None:
        self.start, self.rows, self.round = start, rows, round
        self.result: Vector | None = None


class Batched:
    """Train simulated peers together: when the first of the waiting peers is due, all of them are computed.

    A request is complete when it is made, so computing it early changes nothing. `step_s` is the virtual time of one
    local step; `speed` may slow single peers down.
    """

    def __init__(self, task: Task, trainer: Trainer, *, step_s: float = 0.001) -> None:
        self._task, self._trainer = task, trainer
        self._step_s, self._chunk = step_s, getattr(trainer, "chunk", 128)
        self._waiting: dict[int, _Ticket] = {}
        self._groups: dict[float, list[asyncio.Future[None]]] = {}  # due time -> who waits for it
        self.speed: dict[bytes, float] = {}
        self.trained = 0

    async def train(self, peer: Participant, start: Vector, rows: Rows, round: int) -> Vector:
        """Return the trained model of one peer after its virtual duration."""
        ticket = _Ticket(start, rows, round)
        self._waiting[id(ticket)] = ticket
        try:
            await self._due(self._step_s * len(rows) * self.speed.get(peer.me, 1.0))
        except asyncio.CancelledError:
            self._waiting.pop(id(ticket), None)
            raise
        if ticket.result is None:
            self._compute()
        if ticket.result is None:
            raise AssertionError("a ticket was not computed")
        return ticket.result

    def _due(self, delay_s: float) -> asyncio.Future[None]:
        """Return a future of our own that is done after `delay_s`; all that are due at one instant share a timer."""
        loop = asyncio.get_running_loop()
        due_s, mine = loop.time() + delay_s, loop.create_future()
        group = self._groups.get(due_s)
        if group is None:
            group = self._groups[due_s] = []
            loop.call_at(due_s, self._wake, due_s)
        group.append(mine)
        return mine

    def _wake(self, due_s: float) -> None:
        for future in self._groups.pop(due_s):
            if not future.done():
                future.set_result(None)

    def _compute(self) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # what leaves the numbers is noticed by the peer
            self._compute_all()

    def _compute_all(self) -> None:
        waiting, self._waiting = list(self._waiting.values()), {}
        groups: dict[tuple[int, int], list[_Ticket]] = {}
        for ticket in waiting:
            groups.setdefault((ticket.rows.shape[1], ticket.round), []).append(ticket)
        for (_, round), tickets in groups.items():
            tickets.sort(key=lambda ticket: -len(ticket.rows))
            for at in range(0, len(tickets), self._chunk):
                part = tickets[at : at + self._chunk]
                start = np.stack([ticket.start for ticket in part])
                rows = [ticket.rows for ticket in part]
                for ticket, row in zip(
                    part, self._trainer.train(self._task, start, rows, round), strict=True
                ):
                    ticket.result = row.copy()
        self.trained += len(waiting)


class Threaded:
    """Train one real peer in a thread, so that its links stay alive; same bits as in simulation."""

    def __init__(self, task: Task, trainer: Trainer) -> None:
        self._task, self._trainer = task, trainer

    async def train(self, peer: Participant, start: Vector, rows: Rows, round: int) -> Vector:
        """Return the trained model."""
        return await asyncio.to_thread(self._train, start, rows, round)

    def _train(self, start: Vector, rows: Rows, round: int) -> Vector:
        with np.errstate(over="ignore", invalid="ignore"):
            return np.ascontiguousarray(self._trainer.train(self._task, start[None], [rows], round)[0])
