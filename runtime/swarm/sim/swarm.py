"""The swarm of one simulation: its peers, its network, the log of all that happens, and who judges.

The event log is a running BLAKE2b of everything that happened, with its virtual time: same seed, same hash.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import hashlib
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from flocklet.errors import FlockletError
from flocklet.models.layout import Vector, vector_id
from flocklet.swarm.assembly import Run, assemble
from flocklet.swarm.attacks.model import poison
from flocklet.swarm.participant import Participant
from flocklet.swarm.peer import Peer
from flocklet.swarm.protocols import Message, PeerId
from flocklet.swarm.samplers import HashOrder, Topology
from flocklet.swarm.sim.churn import Happening
from flocklet.swarm.sim.network import SimNetwork
from flocklet.swarm.sim.settings import Settings
from flocklet.swarm.sim.virtual import StandStill, VirtualTime, run_virtual
from flocklet.swarm.start import peer_identities
from flocklet.swarm.strategy import Strategy
from flocklet.swarm.task import Task
from flocklet.swarm.trainers.compute import Batched, computing

__all__ = ["Report", "SimulatedSwarm"]


@dataclass
class Report:
    """What came out of one run. `curve` holds (round, virtual s, bytes so far, mean accuracy of the judged peers)."""

    curve: list[tuple[int, float, int, float]] = field(default_factory=list)
    accuracies: np.ndarray = field(default_factory=lambda: np.zeros(0))
    bytes: int = 0
    messages: Counter[str] = field(default_factory=Counter)
    pings: int = 0
    log_hash: str = ""
    model_ids: list[tuple[int, str]] = field(default_factory=list)  # (round, id of the models after it)
    round_times: dict[int, float] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    is_dead: bool = False  # nobody could go on before the last round
    wall_s: float = 0.0
    trained: int = 0

    @property
    def accuracy(self) -> float:
        """The last mean accuracy."""
        return self.curve[-1][3] if self.curve else float("nan")

    def reached(self, accuracy: float) -> tuple[int, float, int, float] | None:
        """Return the first point of the curve at or above an accuracy."""
        return next((point for point in self.curve if point[3] >= accuracy), None)


class SimulatedSwarm:
    """One run of a simulation; the same object cannot run twice."""

    def __init__(self, settings: Settings, strategy: Strategy, task: Task) -> None:
        self.settings = settings
        self.attacks = settings.attackers_by_place(len(task.shares))
        task = poison(task, {i: attack.kind for i, attack in self.attacks.items()})
        self.strategy, self.task, self.seed, self.rounds = strategy, task, settings.seed, settings.rounds
        self.script, self.late, self.every = list(settings.script), set(settings.late), settings.every
        self.judged = None if settings.judged is None else set(settings.judged)
        self.stop_at = settings.stop_at
        self.compute = Batched(task, computing(strategy.trainer, settings.compute), step_s=settings.step_s)
        self.report = Report()
        self.peers: list[Peer] = []
        self._digest = hashlib.blake2b(digest_size=16)
        self._models: dict[int, dict[int, Vector]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._newest = 0
        self._evaluated = 0
        self._is_sampled = isinstance(strategy.sampler, HashOrder)
        self._judged_count = 0
        self._failure: BaseException | None = None

    def run(self) -> Report:
        """Run to the last round and return what happened; the same object cannot run twice."""
        began = time.perf_counter()
        report = self.report
        try:
            run_virtual(self._main())
        except StandStill:
            report.is_dead = True
        self._judge_rest()
        report.log_hash = self._digest.hexdigest()
        report.bytes, report.messages = self.network.bytes, self.network.messages
        report.pings = self.network.pings
        report.trained = self.compute.trained
        for peer in self.peers:
            report.refused.update(peer.refused)
        report.wall_s = time.perf_counter() - began
        return report

    # -- living

    async def _main(self) -> None:
        self._stop = asyncio.Event()
        self.network = SimNetwork(self.settings.conditions, self.seed)
        self.network.on_delivery = self._delivered
        identities = peer_identities(len(self.task.shares), self.seed)
        links = [self.network.link(identity.public_key) for identity in identities]
        self._index = {link.me: i for i, link in enumerate(links)}
        self.ids = [link.me for link in links]
        for attacker in self.attacks.values():
            attacker.accomplices = frozenset(self.ids[i] for i in self.attacks)
        members = [link.me for i, link in enumerate(links) if i not in self.late]
        run = Run.of(
            self.strategy,
            self.task,
            members,
            seed=self.seed,
            rounds=self.rounds,
            shared_start=self.settings.shared_start,
        )
        if self.settings.graph is not None and isinstance(self.strategy.sampler, Topology):
            graph = tuple(tuple(row) for row in self.settings.graph)
            run = dataclasses.replace(run, sampler=self.strategy.sampler.over(graph, self.ids))
        for i, link in enumerate(links):
            if self.settings.speeds is not None:
                self.compute.speed[link.me] = self.settings.speeds[i]
            clock = VirtualTime(self.seed, link.me)
            self.peers.append(
                assemble(
                    run,
                    i,
                    clock=clock,
                    link=link,
                    compute=self.compute,
                    observer=self,
                    attack=self.attacks.get(i),
                )
            )
        for i in range(len(links)):
            if i not in self.late:
                self._switch_on(i)
        self._judged_count = len(self._wanted())
        await self._stop.wait()
        if self._failure is not None:
            raise self._failure
        for link in self.network.links.values():
            link.is_on = False
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _switch_on(self, i: int) -> None:
        self.network.links[self.ids[i]].is_on = True
        task = self._tasks[i] = asyncio.ensure_future(self.strategy.schedule.run(self.peers[i]))
        task.add_done_callback(functools.partial(self._ended, i))

    def _ended(self, i: int, task: asyncio.Task[None]) -> None:
        """Forget a peer that is through; end the run with the last one, or with the first that failed."""
        if self._tasks.get(i) is task:
            del self._tasks[i]
        if not task.cancelled() and task.exception() is not None and self._failure is None:
            self._failure = task.exception()
        if self._failure is not None or not self._tasks:
            self._stop.set()

    def _happen(self, what: Happening) -> None:
        self._log(b"happening/%s" % what.kind.encode(), what.round, repr(what.peers).encode())
        if what.kind == "split":
            chosen = {self.ids[i] for i in what.peers}
            self.network.partition([chosen, set(self.ids) - chosen])
        elif what.kind == "heal":
            self.network.partition(())
        for i in what.peers if what.kind in ("crash", "leave", "join") else ():
            if what.kind == "join":
                self.peers[i].is_joining = True
                self._switch_on(i)
                continue
            task = self._tasks.pop(i, None)
            if what.kind == "crash":
                self.network.links[self.ids[i]].is_on = False
            if task is not None:
                task.cancel()
                task.add_done_callback(functools.partial(self._gone, i))

    def _gone(self, i: int, _: asyncio.Task[None]) -> None:
        self.network.links[self.ids[i]].is_on = False
        self._judged_count = len(self._wanted())
        for round in sorted(self._models):
            self._evaluate(round)

    # -- watching

    def event(self, peer: Participant, kind: str, round: int, detail: bytes = b"") -> None:
        """Log what a peer did."""
        self._log(kind.encode(), round, peer.me[:8] + detail)

    def model(self, peer: Participant, round: int, vector: Vector) -> None:
        """Log a merged model; judge the round when everybody has one."""
        name = vector_id(vector)
        self.event(peer, "model", round, name)
        self.report.model_ids.append((round, name.hex()))
        now_s = peer.clock.now()
        self.report.round_times.setdefault(round, now_s)
        if round % self.every == 0 or round == self.rounds:
            self._models.setdefault(round, {})[self._index[peer.me]] = vector
            self._evaluate(round)
        if round > self._newest:
            self._newest = round
            due = [what for what in self.script if what.round <= round]
            self.script = [what for what in self.script if what.round > round]
            for what in due:
                asyncio.get_running_loop().call_soon(self._happen, what)

    def _delivered(self, receiver: PeerId, message: Message, size: int) -> None:
        self._log(message.type.encode(), message.round, message.sender[:8] + receiver[:8] + b"%d" % size)

    def _log(self, kind: bytes, round: int, detail: bytes) -> None:
        now_s = asyncio.get_running_loop().time()
        self._digest.update(b"%.9f %s %d %s\n" % (now_s, kind, round, detail))

    def _judges(self, i: int) -> bool:
        if self.judged is not None:
            return i in self.judged and self.network.links[self.ids[i]].is_on
        return i not in self.attacks and self.network.links[self.ids[i]].is_on

    def _evaluate(self, round: int) -> None:
        """Judge a round once every judged peer has a model of it; in sampled rounds, once one has."""
        models = self._models.get(round, {})
        if round <= self._evaluated or not models:
            return
        if self._is_sampled:
            is_all = len(self.attacks) == len(self.peers)
            honest = [i for i in models if is_all or i not in self.attacks]
            if not honest:
                return
            self._measure(round, {honest[0]: models[honest[0]]})
        elif len(models) >= self._judged_count and all(i in models for i in self._wanted()):
            self._measure(round, {i: models[i] for i in self._wanted()})

    def _wanted(self) -> list[int]:
        return [i for i in range(len(self.peers)) if self._judges(i)]

    def _measure(self, round: int, models: dict[int, Vector]) -> None:
        unique = list({id(vector): vector for vector in models.values()}.values())
        with np.errstate(over="ignore", invalid="ignore"):  # a model under attack may be huge
            accuracies = np.concatenate(
                [self.task.accuracy(np.stack(unique[at : at + 128])) for at in range(0, len(unique), 128)]
            )
        by_id = dict(zip(map(id, unique), accuracies, strict=True))
        self.report.accuracies = np.array([by_id[id(models[i])] for i in sorted(models)])
        mean = float(self.report.accuracies.mean())
        now_s = asyncio.get_running_loop().time() if self._is_running() else self.report.round_times[round]
        self.report.curve.append((round, now_s, self.network.bytes, mean))
        self._evaluated = round
        for old in [key for key in self._models if key <= round]:
            del self._models[old]
        if (self.stop_at is not None and mean >= self.stop_at) or self._evaluated >= self.rounds:
            self._stop.set()

    @staticmethod
    def _is_running() -> bool:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return False
        return True

    def _judge_rest(self) -> None:
        """Judge the last round that anybody finished, if it was never complete."""
        if not self.report.curve and not self._models:
            raise FlockletError("no peer finished a round")
        for round in sorted(self._models):
            if round > self._evaluated:
                models = {i: v for i, v in self._models[round].items() if self._judges(i)}
                if models:
                    self._measure(round, models)
