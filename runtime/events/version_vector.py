"""Say which sequence numbers of an origin are held, with holes, in a few bytes.

A `SeqSet` is the floor `upto` (every number up to it is held or given up) plus at most `MAX_RANGES` later
ranges, since entries arrive out of order. A number that would need one range more is refused until the
holes fill: a hostile relay that drops every second entry can delay an origin, never make us give its
entries up.

On the wire: `origin[:8] | varint upto | varint ranges | (varint gap, varint length)*`. Eight bytes of the
origin are enough, because a clash (2^64 work) only makes a peer send again what we hold.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from flocklet.errors import WireError

__all__ = ["MAX_RANGES", "MAX_SEQ", "PREFIX_SIZE", "SeqSet", "read_vector"]

MAX_SEQ = 2**32 - 1
MAX_RANGES = 32
PREFIX_SIZE = 8
_VARINT_LIMIT = 5


class SeqSet:
    """Hold a set of sequence numbers 1..2^32-1 as a floor and a few ranges."""

    __slots__ = ("_ends", "_starts", "upto")

    def __init__(self, upto: int = 0) -> None:
        self.upto = upto
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __contains__(self, seq: int) -> bool:
        if seq <= self.upto:
            return True
        at = bisect_right(self._starts, seq) - 1
        return at >= 0 and seq <= self._ends[at]

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The ranges above the floor, first and last number each, in order."""
        return list(zip(self._starts, self._ends, strict=True))

    @property
    def last(self) -> int:
        """The highest number in the set, 0 when empty."""
        return self._ends[-1] if self._ends else self.upto

    def has_room(self, seq: int) -> bool:
        """Return whether `add(seq)` keeps the set within `MAX_RANGES` ranges."""
        if seq == self.upto + 1 or len(self._starts) < MAX_RANGES:
            return True
        at = bisect_right(self._starts, seq)
        touches_left = at > 0 and self._ends[at - 1] >= seq - 1
        touches_right = at < len(self._starts) and self._starts[at] == seq + 1
        return touches_left or touches_right

    def add(self, seq: int) -> None:
        """Put `seq` in; numbers already held change nothing."""
        if seq in self:
            return
        at = bisect_right(self._starts, seq)
        joins_left = at > 0 and self._ends[at - 1] == seq - 1
        joins_right = at < len(self._starts) and self._starts[at] == seq + 1
        if joins_left and joins_right:
            self._ends[at - 1] = self._ends.pop(at)
            del self._starts[at]
        elif joins_left:
            self._ends[at - 1] = seq
        elif joins_right:
            self._starts[at] = seq
        else:
            self._starts.insert(at, seq)
            self._ends.insert(at, seq)
        self._settle()

    def give_up(self, upto: int) -> None:
        """Raise the floor: numbers up to `upto` are not wanted any more."""
        if upto > self.upto:
            self.upto = upto
            while self._starts and self._ends[0] <= upto:
                del self._starts[0], self._ends[0]
            if self._starts and self._starts[0] <= upto:
                self._starts[0] = upto + 1
            self._settle()

    def encode(self, origin: bytes) -> bytes:
        """Return this set's row of a vector, for `origin`."""
        out = bytearray(origin[:PREFIX_SIZE])
        _put(out, self.upto)
        _put(out, len(self._starts))
        edge = self.upto
        for start, end in zip(self._starts, self._ends, strict=True):
            _put(out, start - edge)
            _put(out, end - start)
            edge = end
        return bytes(out)

    def _settle(self) -> None:
        while self._starts and self._starts[0] == self.upto + 1:
            self.upto = self._ends[0]
            del self._starts[0], self._ends[0]


def read_vector(data: bytes) -> dict[bytes, SeqSet]:
    """Return origin prefix -> set for a vector's bytes; a repeated prefix counts as nothing held.

    Raises WireError on any byte out of place. The cost is linear in `len(data)`.
    """
    rows: dict[bytes, SeqSet] = {}
    repeated: set[bytes] = set()
    numbers = _Numbers(data)
    while numbers.at < len(data):
        prefix = numbers.take(PREFIX_SIZE)
        held = SeqSet(numbers.varint())
        count = numbers.varint()
        if count > MAX_RANGES:
            raise WireError(f"a version vector has {count} ranges, at most {MAX_RANGES} are allowed")
        edge = held.upto
        for start, end in numbers.spans(count, edge):
            held._starts.append(start)
            held._ends.append(end)
        if prefix in rows:
            repeated.add(prefix)
        rows[prefix] = held
    for prefix in repeated:
        rows[prefix] = SeqSet()
    return rows


class _Numbers:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        piece = self.data[self.at : self.at + size]
        if len(piece) < size:
            raise WireError("a version vector ends in the middle of a row", reason="truncated")
        self.at += size
        return piece

    def varint(self) -> int:
        value = 0
        for position in range(_VARINT_LIMIT):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << (7 * position)
            if byte < 0x80:
                if value > MAX_SEQ:
                    break
                return value
        raise WireError("a version vector holds a number above 2^32-1")

    def spans(self, count: int, edge: int) -> Iterator[tuple[int, int]]:
        for _ in range(count):
            gap = self.varint()
            start = edge + gap
            end = start + self.varint()
            if gap < 2 or end > MAX_SEQ:
                raise WireError("a version vector holds a range that cannot be")
            yield start, end
            edge = end


def _put(out: bytearray, value: int) -> None:
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
