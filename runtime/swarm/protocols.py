"""The words that every strategy speaks: messages, updates, and the protocols of its five pieces.

    Strategy = PeerSampler x Trainer x Codec x Aggregator x Schedule

A strategy touches the world only through `Clock` (time and randomness) and `Link` (messages). The simulator and the
device give it different ones; the strategy cannot tell which. Rules that make both behave the same: randomness by
name from the clock, merges in sorted sender order, and handlers that are idempotent in (round, sender, seq).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import WireError
from flocklet.models.layout import Layout, Vector
from flocklet.swarm.task import Rows, Task
from flocklet.wire.arrays import ARRAYS, ArrayValue, Deflated, Quantised, Sparse

__all__ = [
    "Aggregator",
    "Clock",
    "Codec",
    "Context",
    "Link",
    "Message",
    "PeerId",
    "PeerSampler",
    "Sampling",
    "Stateful",
    "Surroundings",
    "Trainer",
    "Update",
    "Verifier",
    "generator",
]

PeerId: TypeAlias = bytes
"""The 32-byte device id of a peer."""

Floats: TypeAlias = NDArray[np.float32]


def generator(seed: int, peer: PeerId, name: str) -> np.random.Generator:
    """Return the generator `name` of a peer: seeded by BLAKE2b(run seed, peer, name), the same in every process."""
    digest = hashlib.blake2b(peer + b"\0" + name.encode(), digest_size=16, key=seed.to_bytes(16, "big"))
    return np.random.default_rng(int.from_bytes(digest.digest(), "big"))


@dataclass(frozen=True, eq=False)
class Message:
    """One author message of a strategy, as `wire.frame` carries it; `sender` and `seq` are proved by its signature."""

    type: str
    round: int
    body: Mapping[str, Any]
    base: bytes = b""
    codec: str = ""
    n: int = 0
    steps: int = 0
    sender: PeerId = b""
    seq: int = 0
    sealed: bytes = field(default=b"", repr=False)

    @cached_property
    def tensors(self) -> dict[str, ArrayValue]:
        """The arrays at the top of the body."""
        return {key: value for key, value in self.body.items() if isinstance(value, ARRAYS)}

    def vector(self, layout: Layout) -> Vector:
        """Return the tensors as one vector (P,), decoded once; raise SchemaMismatch or WireError."""
        known = self.__dict__.get("_vector")
        if known is None:
            layout.check(
                {name: value.shape for name, value in self.tensors.items()}
            )  # before memory is taken
            for value in self.tensors.values():
                if not isinstance(value, Quantised) and _dtype(value) not in (np.float32, np.float16):
                    raise WireError(f"a tensor holds {_dtype(value)}, not float32 or float16", reason="dtype")
            with np.errstate(over="ignore"):  # what overflows is refused below
                dense = {
                    name: value if isinstance(value, np.ndarray) else value.to_dense()
                    for name, value in self.tensors.items()
                }
            known = layout.join(dense)
            if not np.isfinite(known).all():
                raise WireError("a tensor holds a value that is not finite", reason="finite")
            known.flags.writeable = False
            self.__dict__["_vector"] = known
        vector: Vector = known
        return vector


def _dtype(value: NDArray[Any] | Sparse | Deflated) -> np.dtype[Any]:
    return value.dtype if isinstance(value, np.ndarray) else value.values.dtype


@dataclass(frozen=True, eq=False)
class Update:
    """What one peer contributed to a merge: its model `vector` (P,), trained on `n` rows of `classes` classes."""

    sender: PeerId
    vector: Vector
    n: int = 1
    degree: int = 0
    round: int = 0
    classes: int = 0


@dataclass(eq=False)
class Context:
    """What a merge may look at besides the updates.

    `start` (P,) is the model before our own training; `share` our rows of the task and `classes` those that occur in
    them; `gossip` holds models of peers that are not neighbours (rules that need it say so); `state` is what the rule's
    own `begin` returned, and lives as long as the peer.
    """

    round: int
    me: PeerId
    start: Vector
    layout: Layout
    rng: np.random.Generator
    degree: int = 0
    n: int = 1
    gossip: Sequence[Update] = ()
    task: Task | None = None
    share: Rows | None = None
    classes: Rows | None = None
    state: object = None


class Clock(Protocol):
    """Time and randomness of one peer."""

    def now(self) -> float:
        """Return seconds since the swarm began."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Return after `delay_s` seconds."""
        ...

    def rng(self, name: str) -> np.random.Generator:
        """Return the generator of that name; the same one at every call."""
        ...


class Link(Protocol):
    """The network as one peer sees it."""

    me: PeerId

    @property
    def bytes_out(self) -> int:
        """The bytes of frames given to the network so far."""
        ...

    def peers(self) -> list[PeerId]:
        """Return who can be reached as far as discovery knows, sorted, without ourselves."""
        ...

    def send(self, peers: Sequence[PeerId], message: Message) -> None:
        """Seal the message once and send it to each of `peers`; what cannot be delivered is lost."""
        ...

    async def ping(self, peer: PeerId, round: int, timeout_s: float) -> bool:
        """Return whether the peer answered within `timeout_s`."""
        ...

    def open(self, sealed: bytes) -> Message:
        """Return a message that somebody relayed as bytes, its author proved; raise WireError."""
        ...

    def sign(self, statement: bytes) -> bytes:
        """Return our 64-byte signature of a statement that others will show."""
        ...

    def is_signed(self, author: PeerId, statement: bytes, proof: bytes) -> bool:
        """Return whether `author`, whose key we met, signed that statement."""
        ...

    def listen(self, handler: Callable[[Message], None]) -> None:
        """Call `handler` with every message that comes."""
        ...


class Surroundings(Protocol):
    """What a sampler may ask of the peer that it chooses for: who spoke, who fell silent, who can be reached."""

    me: PeerId
    clock: Clock
    link: Link
    heard: set[PeerId]
    silent: set[PeerId]


class PeerSampler(Protocol):
    """Choose whom to talk to, among the members of one run."""

    def neighbours(self, peer: Surroundings, step: int) -> list[PeerId]:
        """Return the peers to exchange with at this step, sorted."""
        ...

    def senders(self, peer: Surroundings, step: int) -> list[PeerId]:
        """Return the peers whose message to expect at this step."""
        ...


class Sampling(Protocol):
    """The part of a strategy that says whom to talk to, before the members are known."""

    def draw(self, members: list[PeerId], seed: int) -> PeerSampler:
        """Return the sampler for these members; all peers draw the same one."""
        ...

    def fewest(self, peers: int) -> int:
        """Return the least number of models that one merge of a swarm of `peers` may see."""
        ...


class Trainer(Protocol):
    """Train N models at once; `plan` says which rows, `train` does it."""

    def plan(self, n: int, rng: np.random.Generator, round: int) -> NDArray[np.int64]:
        """Return positions (K, B) into a share of `n` rows: K local steps of B rows."""
        ...

    def train(self, task: Task, start: Floats, rows: Sequence[NDArray[np.int64]], round: int) -> Floats:
        """Return the trained models (N, P) from `start` (N, P) on N plans (K, B), longest first."""
        ...


class Codec(Protocol):
    """Make a vector small. `unbiased` codecs have E[Q(x)] = x; the others contract and need error feedback.

    `omega` bounds the error: E|Q(x) - x|^2 <= omega |x|^2, for one tensor of `size` values.
    """

    name: str
    unbiased: bool

    def omega(self, size: int) -> float:
        """Return the relative error bound for a tensor of `size` values."""
        ...

    def encode(self, vector: Vector, layout: Layout, rng: np.random.Generator) -> dict[str, ArrayValue]:
        """Return one small array per tensor."""
        ...


class Aggregator(Protocol):
    """Merge models; `needs` names what it asks of the architecture ("gossip", "probe", "memory")."""

    needs: frozenset[str]

    def merge(self, own: Vector | None, updates: Sequence[Update], context: Context) -> Vector:
        """Return the merged model (P,) from our own (None: an aggregator that did not train) and the others'.

        The updates are sorted by sender.
        """
        ...


@runtime_checkable
class Stateful(Protocol):
    """An aggregator that remembers: `begin` returns what `context.state` is for one peer."""

    def begin(self) -> object:
        """Return the state of a peer that has merged nothing yet."""
        ...


class Verifier(Protocol):
    """Compare outputs of models that others claim to have run."""

    def fingerprint(self, outputs: Floats) -> bytes:
        """Return a short code of outputs (n, C) that survives reordered sums."""
        ...

    def agree(self, a: bytes, b: bytes, tolerance: float) -> bool:
        """Return whether two codes differ in at most that share of bits."""
        ...
