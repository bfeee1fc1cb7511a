"""Portable C99 from a kernel's nodes, in one pass.

tinygrad's own lowering rewrites every kernel dozens of times, which is worth it for GPUs and too slow for a cold start
(30 to 1300 ms per kernel here). A kernel built with `Loops` is already what we want to see in C: nested loops around
stores whose indices are sums of loop counters. So its nodes (`flocklet.kernels.render.tinygrad_adapter.Node`) are written
out directly: every value gets a name in the outermost loop that it depends on, marked loops are written out turn by turn,
and the C compiler does the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from flocklet.kernels.render.tinygrad_adapter import Node

__all__ = ["PREAMBLE", "write_c"]

# exp2: nearest integer plus a Taylor polynomial of degree 7 on [-1/2, 1/2] (error 5e-9), saturating at 2**-126 and
# 2**127. Rounding goes through an integer: -fassociative-math may remove "add and subtract 1.5 * 2**23". It is our own
# so that compilers without a vector library vectorise it too. So is log2: exponent plus (m - 1) times a polynomial of
# degree 8 (error 3e-8) for m in [sqrt(1/2), sqrt(2)), saturating below 2**-126.
PREAMBLE = """\
#include <math.h>
#include <stdint.h>
#include <string.h>
static inline float fl_exp2f(float x) {
  x = x < -126.0f ? -126.0f : x; x = x > 127.0f ? 127.0f : x;
  int32_t i = (int32_t)(x + 126.5f) - 126;
  float f = x - (float)i;
  float p = 1.5252734e-5f;
  p = p * f + 1.5403530e-4f; p = p * f + 1.3333558e-3f; p = p * f + 9.6181291e-3f;
  p = p * f + 5.5504109e-2f; p = p * f + 2.4022651e-1f; p = p * f + 6.9314718e-1f; p = p * f + 1.0f;
  int32_t bits = (i + 127) * 8388608;
  float scale;
  memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}
static inline float fl_log2f(float x) {
  x = x < 1.17549435e-38f ? 1.17549435e-38f : x;
  int32_t bits;
  memcpy(&bits, &x, sizeof bits);
  int32_t e = (bits - 0x3f3504f3) >> 23;
  bits -= e * 8388608;
  float m;
  memcpy(&m, &bits, sizeof m);
  float f = m - 1.0f;
  float p = 1.2583722e-1f;
  p = p * f - 2.0726985e-1f; p = p * f + 2.1571558e-1f; p = p * f - 2.3894481e-1f; p = p * f + 2.8791625e-1f;
  p = p * f - 3.6070368e-1f; p = p * f + 4.8091064e-1f; p = p * f - 7.2134735e-1f; p = p * f + 1.4426950f;
  return (float)e + f * p;
}
"""
_FUNCTIONS = {"SQRT": "sqrtf", "EXP2": "fl_exp2f", "LOG2": "fl_log2f", "SIN": "sinf"}
_TYPES = {"float": "float", "int": "int32_t", "uint": "uint32_t"}
_WORDS = {"XOR": "^", "AND": "&", "SHR": ">>"}
_STATEMENTS = ("END", "GROUP", "SINK", "STORE")


@dataclass
class _Scope:
    """One open loop (or the function): its lines so far and what they have named."""

    loop: int
    lines: list[str] = field(default_factory=list)
    known: dict[tuple[int, ...], str] = field(default_factory=dict)


class _Writer:
    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes
        self.free = _free_loops(nodes)
        self.flat = _flat_indices(nodes)
        self.scopes = [_Scope(-1)]
        self.turn: dict[int, int] = {}  # the turn of each loop that is being written out
        self.count = 0
        self.written = {
            self._array(n.sources[0]) for n in (nodes[n.sources[0]] for n in nodes if n.op == "STORE")
        }

    def _array(self, i: int) -> int:
        while self.nodes[i].op == "AFTER":
            i = self.nodes[i].sources[0]
        return i

    def _depth(self, i: int) -> int:
        """Return the number of the innermost open scope whose loop node `i` depends on."""
        free = self.free[i]
        for depth in range(len(self.scopes) - 1, 0, -1):
            if self.scopes[depth].loop in free:
                return depth
        return 0

    def _key(self, i: int) -> tuple[int, ...]:
        if not self.turn:
            return (i,)
        free = self.free[i]
        return (i, *(t for r, t in self.turn.items() if r in free))

    def statement(self, i: int) -> None:
        """Write a statement into the current scope."""
        node = self.nodes[i]
        if node.op == "END":
            body, loop = node.sources
            if self.nodes[loop].is_unrolled:
                for turn in range(self.nodes[loop].size):
                    self.turn[loop] = turn
                    self.statement(body)
                del self.turn[loop]
            else:
                self.scopes.append(_Scope(loop))
                self.statement(body)
                done = self.scopes.pop().lines
                head = f"for (int32_t i{loop} = 0; i{loop} < {self.nodes[loop].size}; ++i{loop}) {{"
                self.scopes[-1].lines += [head, *done, "}"]
        elif node.op == "STORE":
            self._stores([i])
        elif all(self.nodes[s].op == "STORE" for s in node.sources):
            self._stores(node.sources)
        else:
            for source in node.sources:
                self.statement(source)

    def _stores(self, stores: Sequence[int]) -> None:
        """Write stores that happen together: every value is read before anything is written."""
        lines = []
        for i in stores:
            target, value = self.nodes[i].sources
            place, text = self._place(target), self.value(value)
            lines.append(f"{place} = {text};")
        self.scopes[-1].lines += lines

    def _place(self, i: int) -> str:
        """Return the text of an indexed element, after writing the statements that must come before it."""
        array = self.nodes[i].sources[0]
        while self.nodes[array].op == "AFTER":
            for before in self.nodes[array].sources[1:]:
                if self.nodes[before].op in _STATEMENTS:
                    self._before(before)
            array = self.nodes[array].sources[0]
        constant, terms = self.flat[i]
        parts = []
        for loop, factor in terms:
            if loop in self.turn:
                constant += factor * self.turn[loop]
            else:
                index = self.value(loop)
                parts.append(index if factor == 1 else f"{factor}*{index}")
        if constant or not parts:
            parts.append(str(constant))
        return f"{self._name(array)}[{'+'.join(parts)}]"

    def _before(self, i: int) -> None:
        """Write statement `i` where it belongs, once: in the innermost open loop that it depends on."""
        depth = self._depth(i)
        key = self._key(i)
        if key in self.scopes[depth].known:
            return
        self.scopes[depth].known[key] = ""
        inner = self.scopes[depth + 1 :]
        del self.scopes[depth + 1 :]
        self.statement(i)
        self.scopes += inner

    def _name(self, array: int) -> str:
        node = self.nodes[array]
        return f"b{node.slot}" if node.op == "PARAM" else f"r{node.slot}"

    def value(self, i: int) -> str:
        """Return the name (or the literal) of a value, after writing what it is made of."""
        node = self.nodes[i]
        if node.op == "CONST":
            return _literal(node.value, node.kind)
        if node.op == "RANGE":
            return str(self.turn[i]) if i in self.turn else f"i{i}"
        scope = self.scopes[self._depth(i)]
        key = self._key(i)
        known = scope.known.get(key)
        if known is not None:
            return known
        text = self._place(i) if node.op == "INDEX" else self._operation(node.op, node.sources, node.kind)
        if node.op == "CMPLT":
            scope.known[key] = text
            return text
        self.count += 1
        name = scope.known[key] = f"v{self.count}"
        scope.lines.append(f"{_TYPES[node.kind]} {name} = {text};")
        return name

    def _operation(self, op: str, sources: Sequence[int], kind: str = "float") -> str:
        if op == "MUL" and self.nodes[sources[1]].op == "CONST" and self.nodes[sources[1]].value == -1.0:
            return f"-{self.value(sources[0])}"
        a = [self.value(s) for s in sources]
        match op:
            case "ADD":
                return f"{a[0]} + {a[1]}"
            case "MUL":
                return f"{a[0]} * {a[1]}"
            case "MAX":
                return f"{a[0]} < {a[1]} ? {a[1]} : {a[0]}"
            case "CMPLT":
                return f"({a[0]} < {a[1]})"
            case "WHERE":
                return f"{a[0]} ? {a[1]} : {a[2]}"
            case "CAST":
                return f"({_TYPES[kind]}){a[0]}"
            case "XOR" | "AND" | "SHR":
                return f"{a[0]} {_WORDS[op]} {a[1]}"
            case "RECIPROCAL":
                return f"1.0f / {a[0]}"
            case _ if op in _FUNCTIONS:
                return f"{_FUNCTIONS[op]}({a[0]})"
            case _:
                raise ValueError(f"no C for {op}")


def write_c(nodes: Sequence[Node], name: str) -> tuple[str, list[int]]:
    """Return the C text of a kernel (one function, without `static`) and the buffer numbers it takes, in order.

    Raise ValueError for a node that has no C form here, or an index that is not a sum of loop counters.
    """
    writer = _Writer(nodes)
    writer.statement(len(nodes) - 1)
    used = {n.slot: i for i, n in enumerate(nodes) if n.op == "PARAM"}
    arguments = [f"{'' if used[s] in writer.written else 'const '}float *restrict b{s}" for s in sorted(used)]
    arrays = [f"float r{n.slot}[{n.size}];" for n in nodes if n.op == "BUFFER"]
    lines = [f"void {name}({', '.join(arguments)}) {{", *arrays, *writer.scopes[0].lines, "}", ""]
    # never inlined: gcc forgets `restrict` when it inlines, and does not vectorise a body of many buffers then
    return "__attribute__((noinline)) " + "\n".join(lines), sorted(used)


def _free_loops(nodes: Sequence[Node]) -> list[frozenset[int]]:
    """Return for each node the loops inside which it lies or whose counters it uses."""
    free: list[frozenset[int]] = []
    for i, node in enumerate(nodes):
        if node.op == "RANGE":
            free.append(frozenset((i,)))
        elif node.op == "END":
            free.append(free[node.sources[0]] - {node.sources[1]})
        else:
            free.append(frozenset().union(*[free[s] for s in node.sources]))
    return free


def _flat_indices(nodes: Sequence[Node]) -> dict[int, tuple[int, list[tuple[int, int]]]]:
    """Return (constant, [(loop, factor)]) for every INDEX."""
    sums: dict[int, dict[int, int]] = {}  # -1 is the constant

    def expand(i: int) -> dict[int, int]:
        if i not in sums:
            node = nodes[i]
            if node.op == "CONST":
                sums[i] = {-1: int(node.value)}
            elif node.op == "RANGE":
                sums[i] = {i: 1}
            elif node.op in ("ADD", "MUL"):
                a, b = (expand(s) for s in node.sources)
                if node.op == "ADD":
                    sums[i] = {k: a.get(k, 0) + b.get(k, 0) for k in (*a, *b)}
                else:
                    many, one = (a, b) if set(b) == {-1} else (b, a)
                    if set(one) != {-1}:
                        raise ValueError("an index multiplies two loop counters")
                    sums[i] = {k: v * one[-1] for k, v in many.items()}
            elif node.op == "CAST":
                sums[i] = {i: 1}  # an index that was computed or read
            else:
                raise ValueError(f"an index uses {node.op}")
        return sums[i]

    out = {}
    for i, node in enumerate(nodes):
        if node.op == "INDEX":
            total = expand(node.sources[1])
            out[i] = (total.get(-1, 0), sorted((k, v) for k, v in total.items() if k >= 0 and v))
    return out


def _literal(value: float, kind: str = "float") -> str:
    if kind != "float":
        return f"{int(value)}{'u' if kind == 'uint' else ''}"
    text = f"{value:.9g}"
    if text in ("inf", "-inf", "nan"):
        return {"inf": "INFINITY", "-inf": "-INFINITY", "nan": "NAN"}[text]
    text += "" if "." in text or "e" in text else ".0"
    return f"({text}f)" if value < 0 else f"{text}f"
