"""Make sound bodies of every kind from its schema, and damage them field by field; part of the test kit.

    rng = random.Random(1)
    for kind in door:
        body = sound_body(kind, rng)         # a map that `door.read` takes
        data = damaged(body, rng)            # bytes: a field dropped, retyped, out of range, nested; a fifth also has flips

Structure-aware: what a mutation of whole frames seldom reaches (the last check of the last field) is reached here by the
first few bodies of each kind, because each kind has its own entry.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Annotated, Any, get_args, get_origin

import msgpack

from flocklet.wire.kinds import Kind
from flocklet.wire.schema import FieldRule, Many, Within

__all__ = ["damaged", "sound_body"]

_STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 1 << 63, 1.5, float("nan"), float("inf"), "", "x" * 600, "\ud800", b"", b"\xff" * 70_000, [], [[]],
    [[[[]]]], {}, {"a": {}}, {1: 2}, [0] * 2_000, msgpack.Timestamp(1), msgpack.ExtType(1, b""),
    msgpack.ExtType(4, b"d\x02\xff\xff\xff\xff\xff\xff\xff\xff"),
)  # fmt: skip


def sound_body(kind: Kind, rng: random.Random) -> dict[str, Any]:
    """Return a body that the schema of `kind` takes, its optional fields there or not."""
    return {
        rule.key: _value(rule.hint, (), rng)
        for rule in kind.schema.rules
        if not rule.is_optional or rng.random() < 0.5
    }


def damaged(kind: Kind, body: Mapping[str, Any], rng: random.Random) -> bytes:
    """Return the bytes of `body` with one to three fields wrong, or of a sound one with bytes flipped."""
    values: dict[Any, Any] = dict(body)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        rule = rng.choice(kind.schema.rules) if kind.schema.rules else None
        way = rng.randrange(6)
        if rule is None or way == 0:
            values[rng.choice(("t", "", "x" * 40, 5, b"k"))] = rng.choice(_STRANGE)
        elif way == 1:
            values.pop(rule.key, None)
        elif way == 2:
            values[rule.key] = _beyond(rule, rng)
        elif way == 3:
            values[rule.key] = [values.get(rule.key)]
        else:
            values[rule.key] = rng.choice(_STRANGE)
    packed = bytearray(msgpack.packb(values, unicode_errors="surrogatepass"))
    if rng.random() < 0.2:
        for _ in range(rng.randint(1, 4)):
            packed[rng.randrange(len(packed))] = rng.randrange(256)
    return bytes(packed[: rng.randrange(len(packed))]) if rng.random() < 0.02 else bytes(packed)


def _split(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return (get_args(hint)[0], get_args(hint)[1:]) if get_origin(hint) is Annotated else (hint, ())


def _value(hint: Any, outer: tuple[Any, ...], rng: random.Random) -> Any:
    base, own = _split(hint)
    bounds = (*own, *outer)
    within = next((bound for bound in bounds if isinstance(bound, Within)), Within(0, 8))
    if get_origin(base) is tuple:
        items = get_args(base)
        if len(items) == 2 and items[1] is Ellipsis:
            many = next(bound for bound in bounds if isinstance(bound, Many))
            inner = tuple(bound for bound in bounds if bound is not many)
            return [_value(items[0], inner, rng) for _ in range(rng.randint(many.least, min(many.most, 4)))]
        return [_value(item, (), rng) for item in items]
    if base is bool:
        return rng.random() < 0.5
    if base is float:
        return float(min(max(rng.random(), within.least), within.most))
    least, most = int(within.least), int(within.most)
    if base is int:
        return rng.choice((least, most, rng.randint(least, most)))
    size = -(-least // within.step) * within.step
    size += within.step * rng.randint(0, min((most - size) // within.step, 8))
    return rng.randbytes(size) if base is bytes else "a" * size


def _beyond(rule: FieldRule, rng: random.Random) -> Any:
    """Return a value of the right type just outside its bounds."""
    base, bounds = _split(rule.hint)
    within = next((bound for bound in bounds if isinstance(bound, Within)), Within(0, 8))
    if base is int:
        return rng.choice((int(within.least) - 1, min(int(within.most) + 1, (1 << 64) - 1)))
    size = min(int(within.most) + 1, 200_000)
    return bytes(size) if base is bytes else "a" * size if base is str else [0] * 600
