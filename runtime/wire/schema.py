"""Say what each message holds as a frozen dataclass, and check once what a peer sent against it.

    @dataclass(frozen=True, slots=True)
    class EdgeQuestion:
        kind: ClassVar[str] = "edges?"                              # the header's `type`
        salt: Annotated[bytes, Within(8, 8)]                        # eight bytes
        have: Annotated[bytes, Within(0, 32_768, step=4)]
        most: Annotated[int, Within(0, 16)]
        names: Annotated[tuple[str, ...], Many(4), Within(1, 32)]   # at most four texts of 1 to 32 bytes each
        asked: Annotated[tuple[Row, ...], Many(4)]                  # Row = tuple[Annotated[str, Within(1, 32)], bool]
        since: Annotated[int, Within(0, 9)] | None = None           # may be absent; a nil on the wire is refused
        in_: bool                                                   # a Python word: `in` on the wire
        tensors: Tensors                                            # every array at the top of the body, by name

Types are compared exactly (a bool is no int). A missing, extra, mistyped or out-of-range field is a WireError with reason
`field`; whoever gets the dataclass needs to check nothing of that again. A `kind` that ends with `?` is a request and is
answered by the same word with `!`. `unpacks: ClassVar[int]` tells how many bytes the fields themselves unpack to, if they
hold something compressed: it is charged to the sender before any reader sees them (`flocklet.wire.door`).

`schema_of(cls)` compiles a class into a list of closures, once; `read` takes a decoded map, `body_of` gives one to encode.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import (
    Annotated,
    Any,
    ClassVar,
    Generic,
    Protocol,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from flocklet.errors import WireError
from flocklet.wire.arrays import ARRAYS, ArrayValue

__all__ = ["FieldRule", "Many", "Message", "Schema", "Tensors", "Within", "body_of", "schema_of"]

TEXT_BYTES = 512  # of a text that says nothing else


@dataclass(frozen=True, slots=True)
class Within:
    """Bound a number, or the length of bytes and of UTF-8 text; a length is a multiple of `step`."""

    least: float
    most: float
    step: int = 1


@dataclass(frozen=True, slots=True)
class Many:
    """Bound how many items a tuple has."""

    most: int
    least: int = 0


class _AllArrays:
    """Mark the field that takes every array of a body."""


Tensors: TypeAlias = Annotated[Mapping[str, ArrayValue], _AllArrays()]
"""The arrays of a body by name; which names and shapes there may be is the announced layout's (`Door.expect`)."""


class Message(Protocol):
    """A frozen dataclass with the name of its kind."""

    kind: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]


M = TypeVar("M", bound=Message)
_Check: TypeAlias = Callable[[Any], Any]


class _Wrong(Exception):
    """A value breaks its rule; the schema adds which field of which kind."""


@dataclass(frozen=True, slots=True)
class FieldRule:
    """One field, for tables, fuzzers and errors: its key on the wire and the type hint that it is checked against."""

    key: str
    name: str
    hint: Any
    is_optional: bool
    check: _Check


class Schema(Generic[M]):
    """The compiled form of one message class; raises TypeError for a class that cannot travel."""

    def __init__(self, message: type[M]) -> None:
        self.message = message
        self.kind = message.kind
        self.unpacks: int = getattr(message, "unpacks", 0)
        self.rules: list[FieldRule] = []
        self.tensors: str | None = None  # the name of the field that takes the arrays
        self.has_lists = False
        self.has_rows = False  # lists in lists
        hints = get_type_hints(message, include_extras=True)
        for field in fields(message):
            hint, is_optional = _unwrapped(hints[field.name])
            if any(isinstance(bound, _AllArrays) for bound in _bounds(hint)):
                self.tensors = field.name
                continue
            if is_optional and (field.default is not None or field.default is MISSING):
                raise TypeError(f"{message.__name__}.{field.name} may be absent, so its default is None")
            where = f"{message.__name__}.{field.name}"
            base = _base(hint)
            if get_origin(base) is tuple:
                self.has_lists = True
                self.has_rows |= any(get_origin(_base(item)) is tuple for item in get_args(base))
            rule = FieldRule(
                field.name.rstrip("_"), field.name, hint, is_optional, _check_of(hint, (), where)
            )
            self.rules.append(rule)
        self._needed = frozenset(rule.key for rule in self.rules if not rule.is_optional)
        self._steps = [(rule.key, rule.name, rule.check) for rule in self.rules]
        self.is_flat = not self.has_lists and self.tensors is None

    def read(self, body: Mapping[str, Any]) -> M:
        """Return the message in a decoded map; raise WireError, reason `field`, for anything that is not exactly one."""
        values: dict[str, Any] = {}
        key = ""
        try:
            for key, name, check in self._steps:
                if key in body:
                    values[name] = check(body[key])
                elif key in self._needed:
                    raise _Wrong("is missing")
            if len(values) != len(body) or self.tensors is not None:
                key = ""
                self._rest(body, values)
        except _Wrong as wrong:
            what = f"{key!r} {wrong}" if key else str(wrong)
            raise WireError(f"a {self.kind!r} is malformed: {what}", reason="field") from None
        return self.message(**values)

    def _rest(self, body: Mapping[str, Any], values: dict[str, Any]) -> None:
        known = {key for key, _, _ in self._steps}
        rest = {key: value for key, value in body.items() if key not in known}
        if self.tensors is None or not all(isinstance(value, ARRAYS) for value in rest.values()):
            raise _Wrong("it has fields that are none of its own")
        values[self.tensors] = rest


@cache
def schema_of(message: type[M]) -> Schema[M]:
    """Return the compiled schema of a message class."""
    return Schema(message)


def body_of(message: Message) -> dict[str, Any]:
    """Return the map that carries `message`; raise WireError for one that no peer would take."""
    schema = schema_of(type(message))
    body: dict[str, Any] = {}
    for rule in schema.rules:
        value = getattr(message, rule.name)
        if value is None and rule.is_optional:
            continue
        try:
            body[rule.key] = _listed(value)
            rule.check(body[rule.key])
        except _Wrong as wrong:
            raise WireError(
                f"a {schema.kind!r} cannot be sent: {rule.key!r} {wrong}", reason="field"
            ) from None
    if schema.tensors is not None:
        tensors = getattr(message, schema.tensors)
        if clash := body.keys() & tensors.keys():
            raise WireError(f"the array {min(clash)!r} has the name of a field", reason="field")
        body.update(tensors)
    return body


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if type(value) is tuple else value


def _unwrapped(hint: Any) -> tuple[Any, bool]:
    """Return the hint without `| None`, and whether it had that."""
    if get_origin(hint) in (Union, types.UnionType):
        kept = [part for part in get_args(hint) if part is not type(None)]
        if len(kept) == 1:
            return kept[0], True
    return hint, False


def _base(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _bounds(hint: Any) -> tuple[Any, ...]:
    return get_args(hint)[1:] if get_origin(hint) is Annotated else ()


def _check_of(hint: Any, outer: tuple[Any, ...], where: str) -> _Check:
    """Return the function that checks one value; `outer` are bounds that a tuple gives to its items."""
    base, bounds = _base(hint), (*_bounds(hint), *outer)
    within = next((bound for bound in bounds if isinstance(bound, Within)), None)
    if get_origin(base) is tuple:
        return _check_of_tuple(base, bounds, where)
    if base is bool:
        return _is_bool
    if base is float:
        return _number(float, within or Within(-math.inf, math.inf))
    if base is str:
        return _text(within or Within(0, TEXT_BYTES))
    if within is None:
        raise TypeError(f"{where} has no bounds")
    if base is int:
        return _number(int, within)
    if base is bytes:
        return _bytes(within)
    raise TypeError(f"{where} is of a type that does not travel")


def _check_of_tuple(base: Any, bounds: tuple[Any, ...], where: str) -> _Check:
    items = get_args(base)
    if len(items) == 2 and items[1] is Ellipsis:
        many = next((bound for bound in bounds if isinstance(bound, Many)), None)
        if many is None:
            raise TypeError(f"{where} does not say how many there may be")
        inner = tuple(bound for bound in bounds if bound is not many)
        return _row(_check_of(items[0], inner, where), many)
    checks = [_check_of(item, (), where) for item in items]

    def check(value: Any) -> Any:
        if type(value) is not list or len(value) != len(checks):
            raise _Wrong(f"is no list of {len(checks)}")
        return tuple(one(item) for one, item in zip(checks, value, strict=True))

    return check


def _row(item: _Check, many: Many) -> _Check:
    def check(value: Any) -> Any:
        if type(value) is not list or not many.least <= len(value) <= many.most:
            raise _Wrong(f"is no list of {many.least} to {many.most}")
        return tuple(map(item, value))

    return check


def _is_bool(value: Any) -> bool:
    if type(value) is not bool:
        raise _Wrong("is no bool")
    return value


def _number(kind: Any, within: Within) -> _Check:
    least, most = within.least, within.most

    def check(value: Any) -> Any:
        if type(value) is not kind or not least <= value <= most:
            raise _Wrong(f"is no {kind.__name__} from {least:g} to {most:g}")
        if kind is float and not math.isfinite(value):
            raise _Wrong("is infinite")
        return value

    return check


def _bytes(within: Within) -> _Check:
    least, most, step = within.least, within.most, within.step

    def check(value: Any) -> Any:
        if type(value) is not bytes or not least <= len(value) <= most or len(value) % step:
            raise _Wrong(f"is not {least} to {most} bytes in steps of {step}")
        return value

    return check


def _text(within: Within) -> _Check:
    least, most = within.least, within.most

    def check(value: Any) -> Any:
        if type(value) is not str:
            raise _Wrong("is no text")
        try:
            size = len(value) if value.isascii() else len(value.encode())
        except UnicodeEncodeError:
            raise _Wrong("is no text that can travel") from None
        if not least <= size <= most:
            raise _Wrong(f"is not {least} to {most} bytes of text")
        return value

    return check
