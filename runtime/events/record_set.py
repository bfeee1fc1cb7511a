"""Replicate a set of signed records that only grows: the ready half of a new kind of event (docs/add-an-event.md).

    class NoteFeed(RecordFeed):
        name = "notes"

        def check(self, record):      # raise WireError for a body that no honest peer signs
        def learn(self, record):      # it is here now
        def unlearn(self, record):    # it gave way for others

What is missing is found by digests: `NAME.digest?` carries one for each of 64 buckets of record ids, the answer names the
buckets that differ; `NAME?` carries salted digests of what is held there, `NAME!` brings what is not.

Bounds: so many records of one author, so many in all. When all is full, the newest of who has most gives way, strangers
before those that `is_friend` names, never somebody of this device; what gave way is not asked for again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Protocol, cast

from flocklet.errors import WireError
from flocklet.events.feed import Steps, Turn
from flocklet.events.record import MAX_RECORD_SIZE, Record, read_record
from flocklet.wire.schema import Many, Message, Within

__all__ = ["RecordFeed", "RecordTurn", "Shelf"]

BUCKETS = 64
_ALL = (1 << BUCKETS) - 1
_DIGEST, _SALT, _SHORT = 8, 8, 4
_MAX_HAVE = 8_192
_MAX_RECORDS = 16
_MAX_ROUNDS = 512
_STEP = 8  # records whose signatures are checked in one slice
_DECLINED_MOST = 4_096


class Shelf(Protocol):
    """Where records are kept: `flocklet.store.store.Store`. Each call is a transaction; StoreError when it fails."""

    def records(self, feed: str) -> Iterable[bytes]:
        """Return every record of a feed in the order in which they came."""
        ...

    def change_records(self, feed: str, put: Iterable[tuple[bytes, bytes]], remove: Iterable[bytes]) -> None:
        """Keep (id, record) pairs and forget ids."""
        ...


@dataclass(frozen=True, slots=True)
class RecordDigest:
    """Ask which buckets differ."""

    kind: ClassVar[str] = "digest?"
    dig: Annotated[bytes, Within(BUCKETS * _DIGEST, BUCKETS * _DIGEST)]


@dataclass(frozen=True, slots=True)
class RecordBuckets:
    """Answer with the mask of the buckets that differ."""

    kind: ClassVar[str] = "digest!"
    ask: Annotated[int, Within(0, _ALL)]


@dataclass(frozen=True, slots=True)
class RecordQuestion:
    """Ask for the records of the buckets in the mask `ask` that are not in `have`, digests of ids under `salt`."""

    kind: ClassVar[str] = "?"
    ask: Annotated[int, Within(0, _ALL)]
    salt: Annotated[bytes, Within(_SALT, _SALT)]
    have: Annotated[bytes, Within(0, _MAX_HAVE * _SHORT, step=_SHORT)]


@dataclass(frozen=True, slots=True)
class RecordAnswer:
    """Answer with records; `more` masks the buckets that have others."""

    kind: ClassVar[str] = "!"
    more: Annotated[int, Within(0, _ALL)]
    records: Annotated[tuple[bytes, ...], Many(_MAX_RECORDS), Within(96, MAX_RECORD_SIZE)]


@dataclass(slots=True, kw_only=True)
class RecordTurn(Turn):
    """A pull: the buckets that are still to be asked for, and what came in and is not kept yet."""

    is_begun: bool = False
    pending: int = 0
    asked: int = 0
    rounds: int = 0
    came: list[Record] = field(default_factory=list)
    gone: list[bytes] = field(default_factory=list)


class RecordFeed:
    """A feed over a set of records in memory and on a shelf; subclass it and name it.

    `salt()` gives 8 random bytes; `is_friend` and `is_own` tell who keeps what when there is no room for all.
    """

    name = ""

    def __init__(
        self,
        shelf: Shelf,
        salt: Callable[[], bytes],
        *,
        is_own: Callable[[bytes], bool] = lambda author: False,
        is_friend: Callable[[bytes], bool] = lambda author: False,
        most_of_author: int = 64,
        most: int = 4_096,
    ) -> None:
        self._digest: Callable[[bytes], Message] = _named(RecordDigest, f"{self.name}.digest?")
        self._buckets: Callable[[int], Message] = _named(RecordBuckets, f"{self.name}.digest!")
        self._question: Callable[[int, bytes, bytes], Message] = _named(RecordQuestion, f"{self.name}?")
        self._answer: Callable[[int, tuple[bytes, ...]], Message] = _named(RecordAnswer, f"{self.name}!")
        self.kinds: tuple[type[Message], ...] = tuple(
            cast(Any, (self._digest, self._buckets, self._question, self._answer))
        )
        self._shelf = shelf
        self._salt = salt
        self._is_own = is_own
        self._is_friend = is_friend
        self._most_of_author = most_of_author
        self._most = most
        self._held: dict[bytes, Record] = {}  # by id, in the order in which they came
        self._rows: list[dict[bytes, None]] = [{} for _ in range(BUCKETS)]
        self._of_author: Counter[bytes] = Counter()
        self._declined: dict[bytes, None] = {}
        self._digests: list[bytes | None] = [None] * BUCKETS
        for raw in shelf.records(self.name):
            self._put(read_record(raw, self.name))

    # -- what a kind of event says --

    def check(self, record: Record) -> None:
        """Raise WireError for a body that no honest peer signs."""
        raise NotImplementedError

    def learn(self, record: Record) -> None:
        """Take a record in: it was checked, is new and is kept."""

    def unlearn(self, record: Record) -> None:
        """Take a record back: it gave way for others."""

    # -- what is held --

    def __len__(self) -> int:
        """Return how many records are held."""
        return len(self._held)

    def __iter__(self) -> Any:
        """Iterate over the records in the order in which they came."""
        return iter(list(self._held.values()))

    def add(self, record: Record) -> None:
        """Keep a record of this device's own.

        Raises WireError when `check` refuses it or there is no room, StoreError when it cannot be kept.
        """
        turn = self.start(b"", 0)
        self.check(record)
        if not self._admit(record, turn):
            raise WireError(f"there is no room for another record of {self.name}", reason="full")
        self.save(turn)

    # -- the feed --

    def is_due(self, turns: int) -> bool:
        """Ask every time: when nothing is new, it costs about 550 bytes."""
        return True

    def start(self, peer: bytes, linked: int) -> RecordTurn:
        """Begin a pull."""
        return RecordTurn(peer, linked)

    def request(self, turn: RecordTurn) -> Message | None:
        """Ask which buckets differ, then for these, as many as fit, until none has more."""
        if not turn.is_begun:
            turn.is_begun = True
            return self._digest(self._all_digests())
        if not turn.pending or turn.rounds >= _MAX_ROUNDS:
            return None
        turn.rounds += 1
        salt, have, turn.asked = self._salt(), bytearray(), 0
        for number in range(BUCKETS):
            rows = self._rows[number]
            if turn.pending >> number & 1 and (
                not turn.asked or len(have) // _SHORT + len(rows) <= _MAX_HAVE
            ):
                have += b"".join(_short(salt, id) for id in list(rows)[:_MAX_HAVE])
                turn.asked |= 1 << number
        room = _MAX_HAVE - len(have) // _SHORT
        have += b"".join(_short(salt, id) for id in list(self._declined)[:room])
        return self._question(turn.asked, salt, bytes(have))

    def answer(self, request: Message, peer: bytes) -> Steps[Message]:
        """Answer either question."""
        if isinstance(request, RecordDigest):
            ours = self._all_digests()
            mask = 0
            for number in range(BUCKETS):
                at = slice(number * _DIGEST, (number + 1) * _DIGEST)
                mask |= (request.dig[at] != ours[at]) << number
            return self._buckets(mask)
        if not isinstance(request, RecordQuestion):
            raise WireError(f"{request.kind!r} asks for no {self.name}", reason="type")
        have = {request.have[at : at + _SHORT] for at in range(0, len(request.have), _SHORT)}
        found: list[bytes] = []
        more = 0
        for number in range(BUCKETS):
            if not request.ask >> number & 1:
                continue
            for id in list(self._rows[number]):
                if id in self._held and _short(request.salt, id) not in have:
                    if len(found) == _MAX_RECORDS:
                        more |= 1 << number
                        break
                    found.append(self._held[id].raw)
            yield
        return self._answer(more, tuple(found))

    def absorb(self, turn: RecordTurn, answer: Message | bytes | None) -> Steps[None]:
        """Check records; stop at the first that no honest peer sends."""
        if isinstance(answer, RecordBuckets) and not turn.rounds:
            turn.pending = answer.ask
            return
        if not isinstance(answer, RecordAnswer) or not turn.rounds:
            raise WireError(f"a pull of {self.name} was answered by something else", reason="type")
        news = 0
        for number, raw in enumerate(answer.records, start=1):
            record = read_record(raw, self.name)
            self.check(record)
            if record.id not in self._held:
                news += self._admit(record, turn)
            if number % _STEP == 0:
                yield
        turn.pending &= ~turn.asked | (answer.more if news else 0)

    def save(self, turn: RecordTurn) -> None:
        """Keep what came and forget what gave way."""
        came, turn.came = turn.came, []
        gone, turn.gone = turn.gone, []
        if came or gone:
            self._shelf.change_records(self.name, [(record.id, record.raw) for record in came], gone)
        turn.new += len(came)

    def _admit(self, record: Record, turn: RecordTurn) -> bool:
        """Take a record in if there is, or can be made, room for it; tell whether it is held now."""
        if self._of_author[record.author] >= self._most_of_author and not self._is_own(record.author):
            self._decline(record.id)
            turn.outcomes["full"] += 1
            return False
        self._put(record)
        turn.came.append(record)
        if len(self._held) > self._most and (victim := self._victim()) is not None:
            self._drop(victim)
            if victim in turn.came:
                turn.came.remove(victim)
            else:
                turn.gone.append(victim.id)
            turn.outcomes["evicted"] += 1
        return record.id in self._held

    def _put(self, record: Record) -> None:
        self._held[record.id] = record
        self._rows[record.id[0] % BUCKETS][record.id] = None
        self._of_author[record.author] += 1
        self._digests[record.id[0] % BUCKETS] = None
        self.learn(record)

    def _drop(self, record: Record) -> None:
        del self._held[record.id], self._rows[record.id[0] % BUCKETS][record.id]
        self._of_author[record.author] -= 1
        self._digests[record.id[0] % BUCKETS] = None
        self._decline(record.id)
        self.unlearn(record)

    def _decline(self, id: bytes) -> None:
        self._declined[id] = None
        if len(self._declined) > _DECLINED_MOST:
            del self._declined[next(iter(self._declined))]

    def _victim(self) -> Record | None:
        """Return the newest record of the stranger, else of the friend, that has most."""
        others = [author for author, count in self._of_author.items() if count and not self._is_own(author)]
        if not others:
            return None
        worst = max(others, key=lambda who: (not self._is_friend(who), self._of_author[who], who))
        return next(record for record in reversed(self._held.values()) if record.author == worst)

    def _all_digests(self) -> bytes:
        for number, digest in enumerate(self._digests):
            if digest is None:
                ids = b"".join(sorted(self._rows[number]))
                self._digests[number] = hashlib.blake2b(ids, digest_size=_DIGEST).digest()
        return b"".join(digest for digest in self._digests if digest is not None)


def _short(salt: bytes, id: bytes) -> bytes:
    return hashlib.blake2b(id, digest_size=_SHORT, key=salt).digest()


def _named(base: type[Message], kind: str) -> Any:
    """Return the message class under the kind that it has in one feed."""
    return type(base.__name__, (base,), {"kind": kind, "__slots__": (), "__doc__": base.__doc__})
