"""Scalar expressions: what a body over "any number" becomes when it is called with symbols instead of arrays.

A body is a plain Python function of lists of numbers, for example one step of a simulator. `trace` calls it
once with `Expr` inputs and returns a `Graph`; the graph is evaluated on NumPy arrays (the twin), on
tinygrad UOps (the kernel) and differentiated (`flocklet.kernels.body.adjoint`). Equal sub-expressions are one
object, so nothing is computed twice; the digest of a graph is the same in every process and serves as a
cache key.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "HASH_PARTS",
    "HASH_ROUNDS",
    "HASH_START",
    "Arithmetic",
    "Expr",
    "Graph",
    "NumpyArithmetic",
    "SymbolArithmetic",
    "Tracer",
    "hashed_uniform",
    "trace",
]

HASH_START = (0x9E3779B9, 0x85EBCA6B)
HASH_PARTS = ((8, 0, 2.0**-24), (12, 0, 2.0**-20), (0, 4095, 2.0**-12))  # (shift, mask, scale)
HASH_ROUNDS = (0x21F0AAAD, 0x735A2D97, 0x9E3779B1)

_COMMUTATIVE = frozenset({"add", "mul", "max"})
_FOLD: dict[str, Callable[..., float]] = {
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "max": max,
    "neg": lambda a: -a,
    "recip": lambda a: 1.0 / a,
    "sqrt": math.sqrt,
    "exp2": lambda a: 2.0**a,
    "log2": math.log2,
    "sin": math.sin,
}


class Expr:
    """One scalar value: `op` applied to `args`. Made by a Tracer only; supports + - * / < and the methods
    below.
    """

    __slots__ = ("args", "index", "op", "tracer", "value")

    def __init__(self, tracer: Tracer, op: str, args: tuple[Expr, ...], value: float, index: int) -> None:
        self.tracer = tracer
        self.op = op
        self.args = args
        self.value = value
        self.index = index

    def __add__(self, other: Expr | float) -> Expr:
        return self.tracer.make("add", self, other)

    __radd__ = __add__

    def __mul__(self, other: Expr | float) -> Expr:
        return self.tracer.make("mul", self, other)

    __rmul__ = __mul__

    def __neg__(self) -> Expr:
        return self.tracer.make("neg", self)

    def __sub__(self, other: Expr | float) -> Expr:
        return self + (-other)

    def __rsub__(self, other: Expr | float) -> Expr:
        return (-self) + other

    def __truediv__(self, other: Expr | float) -> Expr:
        return self * (other.reciprocal() if isinstance(other, Expr) else 1.0 / other)

    def __rtruediv__(self, other: Expr | float) -> Expr:
        return self.reciprocal() * other

    def __lt__(self, other: Expr | float) -> Expr:
        return self.tracer.make("lt", self, other)

    def __gt__(self, other: Expr | float) -> Expr:
        return self.tracer.make("lt", other, self)

    def reciprocal(self) -> Expr:
        """Return 1 / self."""
        return self.tracer.make("recip", self)

    def sqrt(self) -> Expr:
        """Return the square root."""
        return self.tracer.make("sqrt", self)

    def exp2(self) -> Expr:
        """Return 2 ** self."""
        return self.tracer.make("exp2", self)

    def log2(self) -> Expr:
        """Return the logarithm to base 2."""
        return self.tracer.make("log2", self)

    def sin(self) -> Expr:
        """Return the sine (radians)."""
        return self.tracer.make("sin", self)

    def random(self, part: int, *keys: Expr | float) -> Expr:
        """Return a uniform number in [0, 1) that depends on this number and `keys` only (see `hashed_uniform`)."""
        return self.tracer.make("random", self, part, *keys)

    def maximum(self, other: Expr | float) -> Expr:
        """Return the larger one."""
        return self.tracer.make("max", self, other)

    def where(self, yes: Expr | float, no: Expr | float) -> Expr:
        """Return `yes` where this condition holds, else `no`."""
        return self.tracer.make("where", self, yes, no)


class Tracer:
    """Make expressions; fold constants; give equal expressions the same object."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], Expr] = {}
        self.inputs: list[Expr] = []

    def input(self) -> Expr:
        """Return a new free variable."""
        expr = self._intern("input", (), float(len(self.inputs)))
        self.inputs.append(expr)
        return expr

    def const(self, value: float) -> Expr:
        """Return a constant."""
        return self._intern("const", (), float(value))

    def make(self, op: str, *operands: Expr | float) -> Expr:
        """Return `op(*operands)` after the simplifications that never change a finite result."""
        args = tuple([x if isinstance(x, Expr) else self.const(float(x)) for x in operands])
        if op in _FOLD and args[-1].op == "const" and args[0].op == "const":
            return self.const(_FOLD[op](*[a.value for a in args]))
        if op in _COMMUTATIVE:
            a, b = args
            if (a.op == "const", a.index) > (b.op == "const", b.index):
                args = (b, a)
        short = self._shorten(op, args)
        return short if short is not None else self._intern(op, args, 0.0)

    def _shorten(self, op: str, args: tuple[Expr, ...]) -> Expr | None:
        last = args[-1]
        if op == "add" and last.op == "const" and last.value == 0.0:
            return args[0]
        if op == "mul" and last.op == "const":
            if last.value == 0.0:
                return last
            if last.value == 1.0:
                return args[0]
            if last.value == -1.0:
                return self.make("neg", args[0])
            if args[0].op == "mul" and args[0].args[1].op == "const":
                return self.make("mul", args[0].args[0], args[0].args[1].value * last.value)
        if op == "neg" and last.op == "neg":
            return last.args[0]
        if op == "where":
            cond, yes, no = args
            if yes is no:
                return yes
            if cond.op == "lt" and all(a.op == "const" for a in cond.args):
                return yes if cond.args[0].value < cond.args[1].value else no
        return None

    def _intern(self, op: str, args: tuple[Expr, ...], value: float) -> Expr:
        key: tuple[object, ...] = (op, *[a.index for a in args]) if args else (op, value)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Expr(self, op, args, value, len(self._known))
        return found


class Arithmetic(Protocol):
    """What a graph needs of a number type."""

    def const(self, value: float) -> Any:
        """Return a constant of this number type."""
        ...

    def apply(self, op: str, args: Sequence[Any]) -> Any:
        """Return `op(*args)`; `op` is one of add mul neg recip sqrt exp2 log2 sin max lt where random."""
        ...


class NumpyArithmetic:
    """Numbers are NumPy arrays (or floats) of one dtype: float32 twins, float64 oracles."""

    def __init__(self, dtype: Any = np.float32) -> None:
        self.dtype = np.dtype(dtype).type

    def const(self, value: float) -> Any:
        """Return a NumPy scalar."""
        return self.dtype(value)

    def apply(self, op: str, args: Sequence[Any]) -> Any:
        """Return `op(*args)` elementwise."""
        if op == "random":
            return hashed_uniform(*args).astype(self.dtype)
        return _NUMPY[op](*args)


def hashed_uniform(lane: Any, part: float, *keys: Any) -> NDArray[np.float64]:
    """Return numbers in [0, 1) made of whole numbers in [0, 2**24): the oracle of the `random` operation.

    `part` 0 gives 24 bits; 1 and 2 give 20 and 12 other bits of one word, independent of each other. The keys are
    folded into one word, the lane goes through two rounds of multiply and shift (constants as searched for by Wellons,
    "hash prospector", 2018); the same bits come from every backend.
    """

    def word(x: Any) -> NDArray[np.uint32]:
        return np.asarray(x).astype(np.int32).astype(np.uint32)

    first, second = (np.uint32(x) for x in HASH_START)
    m1, m2, m3 = (np.uint32(x) for x in HASH_ROUNDS)
    with np.errstate(over="ignore"):
        a: Any = np.uint32(first)
        for key in keys:
            a = (a + word(key)) * m1
            a = (a ^ (a >> np.uint32(15))) * m2
            a = a ^ (a >> np.uint32(16))
        h = word(lane) * m3 + a
        h = (h ^ (h >> np.uint32(16))) * m1
        h = (h ^ (h >> np.uint32(15))) + a * second
        h = h * m2
        h = h ^ (h >> np.uint32(15))
    shift, mask, scale = HASH_PARTS[int(part)]
    h = h >> np.uint32(shift) if shift else h & np.uint32(mask)
    spread: NDArray[np.float64] = h.astype(np.float64) * scale
    return spread


class SymbolArithmetic:
    """Numbers are symbols of one trace: a graph can be evaluated inside another body."""

    def __init__(self, example: Expr) -> None:
        self._tracer = example.tracer

    def const(self, value: float) -> Expr:
        """Return a constant."""
        return self._tracer.const(value)

    def apply(self, op: str, args: Sequence[Any]) -> Expr:
        """Return `op(*args)`."""
        return self._tracer.make(op, *args)


_NUMPY: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "mul": np.multiply,
    "neg": np.negative,
    "recip": np.reciprocal,
    "sqrt": np.sqrt,
    "exp2": np.exp2,
    "log2": np.log2,
    "sin": np.sin,
    "max": np.maximum,
    "lt": np.less,
    "where": np.where,
}


@dataclass(frozen=True)
class Graph:
    """A traced body: `outputs` as functions of `inputs`."""

    tracer: Tracer
    inputs: tuple[Expr, ...]
    outputs: tuple[Expr, ...]

    @cached_property
    def order(self) -> list[Expr]:
        """Return every expression that the outputs need, arguments first."""
        seen: dict[int, Expr] = {}
        stack = list(reversed(self.outputs))
        while stack:
            expr = stack[-1]
            if expr.index not in seen:
                missing = [a for a in expr.args if a.index not in seen]
                if missing:
                    missing.reverse()
                    stack += missing
                    continue
                seen[expr.index] = expr
            stack.pop()
        return list(seen.values())

    def evaluate(self, values: Sequence[Any], numbers: Arithmetic) -> list[Any]:
        """Return the outputs for the given input values (one per input)."""
        if len(values) != len(self.inputs):
            raise ValueError(f"the body takes {len(self.inputs)} numbers, got {len(values)}")
        got: dict[int, Any] = {expr.index: value for expr, value in zip(self.inputs, values, strict=True)}
        apply = numbers.apply
        for index, op, value, args in self._plan:
            if index not in got:
                got[index] = numbers.const(value) if op == "const" else apply(op, [got[a] for a in args])
        return [got[expr.index] for expr in self.outputs]

    @cached_property
    def _plan(self) -> list[tuple[int, str, float, list[int]]]:
        return [(e.index, e.op, e.value, [a.index for a in e.args]) for e in self.order]

    def digest(self) -> str:
        """Return a digest of the computation, equal in every process."""
        number: dict[int, int] = {}
        text = []
        for position, expr in enumerate(self.order):
            number[expr.index] = position
            what = [number[a.index] for a in expr.args] if expr.args else expr.value.hex()
            text.append(f"{expr.op} {what}")
        text.append(f"{len(self.inputs)} {[number[expr.index] for expr in self.outputs]}")
        return hashlib.sha256("\n".join(text).encode()).hexdigest()[:24]

    def cost(self) -> int:
        """Return the number of arithmetic operations (comparisons and selections included)."""
        return sum(1 for expr in self.order if expr.op not in ("const", "input"))


def trace(body: Callable[..., Any], *arities: int) -> Graph:
    """Call `body(list, list, ...)` with lists of `arities` symbols; return what it computed as a Graph.

    The body returns a list (or tuple) of numbers; plain floats among them become constants.
    """
    tracer = Tracer()
    lists = [[tracer.input() for _ in range(n)] for n in arities]
    out = body(*lists)
    outputs = tuple(x if isinstance(x, Expr) else tracer.const(float(x)) for x in out)
    return Graph(tracer, tuple(tracer.inputs), outputs)
