"""The kinds of message that a link itself has, and what a kind is; every room brings its own (PROTOCOL.md, "Messages").

A kind fixes what no sender can choose: how large the message may be, when it may come and from whom, whether its author
signs it, and what its body holds. `Kind.of` reads most of that off the message class:

    Kind.of(EdgeQuestion)                       # "edges?": a request of at most 64 KiB, answered by "edges!"
    Kind.of(EdgeAnswer)                         # "edges!": a reply, and nothing but a reply to that
    Kind.of(Trained, Role.AUTHOR, Size.DATA)    # signed by its author; with a field of `Tensors` it brings arrays
    Kind.of(Get, Role.REQUEST, answers=("content", "chunk"))
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, ClassVar

from flocklet.wire.schema import Many, Message, Schema, Within, schema_of

__all__ = [
    "HANDSHAKE_KINDS",
    "LINK_KINDS",
    "Bye",
    "Credit",
    "Fail",
    "Hello",
    "Kind",
    "Ok",
    "Ping",
    "Pong",
    "Proof",
    "Refuse",
    "Role",
    "Size",
    "Welcome",
]

MAX_CREDITS = 1 << 16
MAX_FRAME_BYTES = 64 << 20
MAX_BROUGHT_BYTES = 3_072
_REASON = Within(0, 64)
_CREDITS = Within(1, MAX_CREDITS)


class Size(Enum):
    """How large a message may be, and when it may come."""

    HANDSHAKE = "handshake"  # before authentication only: 4 KiB
    CONTROL = "control"  # 64 KiB
    DATA = "data"  # what the receiver announced; 1 MiB unless a model needs more


class Role(Enum):
    """What part a kind plays in a conversation."""

    HANDSHAKE = "handshake"
    LINK = "link"  # the link's own: used up on arrival, never queued
    NOTE = "note"  # asks for nothing
    REQUEST = "request"  # has a `rid`
    REPLY = "reply"  # has a `re`, and comes only while that request waits for this kind
    AUTHOR = "author"  # signed, may be relayed


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the table: the name in the header, the body, and the rest of what the docstring above says."""

    name: str
    message: type[Message] | None  # None: the body stays a map, and whoever takes it checks it
    role: Role
    size: Size
    answers: tuple[str, ...] = ()  # the kinds that may answer a request

    @classmethod
    def of(
        cls,
        message: type[Message],
        role: Role | None = None,
        size: Size | None = None,
        *,
        answers: tuple[str, ...] = (),
    ) -> Kind:
        """Return the kind of a message class; `name?` and `name!` tell their role and size by themselves.

        Raises TypeError for a class that cannot travel, or a request that nothing answers.
        """
        name = message.kind
        if name.endswith("?"):
            role, size, answers = role or Role.REQUEST, size or Size.CONTROL, answers or (f"{name[:-1]}!",)
        elif name.endswith("!"):
            role, size = role or Role.REPLY, size or Size.DATA
        if role is None:
            raise TypeError(f"{name!r} does not say what part it plays")
        if (role is Role.REQUEST) is not bool(answers):
            raise TypeError(f"{name!r}: a request, and nothing else, names the kinds that answer it")
        return cls(name, message, role, size or Size.CONTROL, answers)

    @property
    def is_authored(self) -> bool:
        """Whether its author signs it."""
        return self.role is Role.AUTHOR

    @property
    def schema(self) -> Schema[Any]:
        """The compiled schema of the body; raises TypeError for a class that cannot travel, or when there is none."""
        if self.message is None:
            raise TypeError(f"{self.name!r} has no schema")
        return schema_of(self.message)

    @property
    def brings_arrays(self) -> bool:
        """Whether a body of this kind may hold arrays at all."""
        if self.message is not None:
            return schema_of(self.message).tensors is not None
        return self.is_authored and self.size is Size.DATA


@dataclass(frozen=True, slots=True)
class Hello:
    """Begin a handshake: versions spoken (least, most), key, certificate (the client's), nonces, flock, abilities.

    `features` names what this side speaks beyond the version: its kinds, and header fields that a later release adds.
    What the other side did not announce is not sent to it, so a new kind needs no new version.
    """

    kind: ClassVar[str] = "hello"
    versions: tuple[Annotated[int, Within(0, 65_535)], Annotated[int, Within(0, 65_535)]]
    key: Annotated[bytes, Within(32, 32)]
    certificate: Annotated[bytes, Within(0, 2_048)]
    nonce: Annotated[bytes, Within(32, 32)]
    run: Annotated[bytes, Within(8, 8)]
    tags: Annotated[tuple[str, ...], Many(4), Within(1, 16)]
    compressors: Annotated[tuple[str, ...], Many(8), Within(1, 16)]
    schemas: Annotated[tuple[bytes, ...], Many(32), Within(16, 16)]
    frame: Annotated[int, Within(4_096, MAX_FRAME_BYTES)]
    features: Annotated[tuple[str, ...], Many(96), Within(1, 16)]


@dataclass(frozen=True, slots=True)
class Proof:
    """Prove the client's key and the flock's secret; grant the first credits."""

    kind: ClassVar[str] = "proof"
    signature: Annotated[bytes, Within(64, 64)]
    mac: Annotated[bytes, Within(0, 32, step=32)]  # empty in an open flock
    data: Annotated[int, _CREDITS]
    control: Annotated[int, _CREDITS]
    records: Annotated[bytes, Within(0, MAX_BROUGHT_BYTES)]  # flock records: heard also where no link follows


@dataclass(frozen=True, slots=True)
class Welcome:
    """Prove the server's, after the client's held."""

    kind: ClassVar[str] = "welcome"
    signature: Annotated[bytes, Within(64, 64)]
    mac: Annotated[bytes, Within(0, 32, step=32)]
    data: Annotated[int, _CREDITS]
    control: Annotated[int, _CREDITS]
    records: Annotated[bytes, Within(0, MAX_BROUGHT_BYTES)]  # flock records: heard also where no link follows


@dataclass(frozen=True, slots=True)
class Refuse:
    """End a handshake with a reason code."""

    kind: ClassVar[str] = "refuse"
    reason: Annotated[str, _REASON]


@dataclass(frozen=True, slots=True)
class Ping:
    """Ask whether the peer lives; `clock` is this side's time in minutes since 1970, a hint that orders nothing."""

    kind: ClassVar[str] = "ping"
    clock: Annotated[int, Within(0, (1 << 32) - 1)]


@dataclass(frozen=True, slots=True)
class Pong:
    """Answer a ping; `clock` as there."""

    kind: ClassVar[str] = "pong"
    clock: Annotated[int, Within(0, (1 << 32) - 1)]


@dataclass(frozen=True, slots=True)
class Credit:
    """Grant frames."""

    kind: ClassVar[str] = "credit"
    data: Annotated[int, Within(0, MAX_CREDITS)] = 0
    control: Annotated[int, Within(0, MAX_CREDITS)] = 0


@dataclass(frozen=True, slots=True)
class Bye:
    """End a link with a reason code."""

    kind: ClassVar[str] = "bye"
    reason: Annotated[str, _REASON]


@dataclass(frozen=True, slots=True)
class Fail:
    """Answer any request by the reason code why there is no answer."""

    kind: ClassVar[str] = "fail"
    reason: Annotated[str, _REASON]


@dataclass(frozen=True, slots=True)
class Ok:
    """Answer a request that asks for nothing but that."""

    kind: ClassVar[str] = "ok"


HANDSHAKE_KINDS: tuple[Kind, ...] = tuple(
    Kind(message.kind, None, Role.HANDSHAKE, Size.HANDSHAKE) for message in (Hello, Proof, Welcome, Refuse)
)
"""The handshake reads these bodies itself: first the versions, since all else in a hello may differ between versions."""

LINK_KINDS: tuple[Kind, ...] = (
    *(Kind.of(message, Role.LINK) for message in (Ping, Pong, Credit, Bye)),
    Kind.of(Fail, Role.REPLY),
    Kind.of(Ok, Role.REPLY),
)
