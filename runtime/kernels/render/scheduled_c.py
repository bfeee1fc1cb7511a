"""Write one kernel of tinygrad's schedule as C99 loops that a compiler turns into vectors.

What the scheduler hands over is one store: an expression of loads over counters, with sums and maxima over further
counters. The innermost counter of the result is cut into lanes and groups, the one before into rows; lanes stay a loop
of constant length, groups and rows are written out, so that the accumulators of rows x groups x lanes live in registers
(the tile of `flocklet.kernels.kernel`). Loads that lanes share are hoisted by the compiler. Nodes are told apart by
their names only; `Unwritable` says which is unknown or which sums are nested.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

from flocklet.errors import ConfigError
from flocklet.kernels.kernel import Tile
from flocklet.kernels.render.strides import fitness, stride

__all__ = ["FUNCTIONS", "Unwritable", "write_scheduled"]

FUNCTIONS = """
#ifdef __clang__
#define FL_PLAIN_LOOP _Pragma("clang loop vectorize(disable)")
#else
#define FL_PLAIN_LOOP
#endif
static inline int32_t fl_floordiv(int32_t a, int32_t b) { int32_t q = a / b; return q - (a % b != 0 && (a < 0) != (b < 0)); }
static inline int32_t fl_floormod(int32_t a, int32_t b) { return a - fl_floordiv(a, b) * b; }
"""
_INFIX = {
    "ADD": "+",
    "MUL": "*",
    "SUB": "-",
    "CMPLT": "<",
    "CMPNE": "!=",
    "CMPEQ": "==",
    "AND": "&",
    "OR": "|",
}
_INFIX |= {"XOR": "^", "FDIV": "/", "SHL": "<<", "SHR": ">>"}
_CALLS = {"EXP2": "fl_exp2f", "LOG2": "fl_log2f", "SIN": "sinf", "SQRT": "sqrtf", "TRUNC": "truncf"}
_MOST_PACKED = 1024  # turns of a sum
_FLOOR = {"FLOORDIV": ("/", "fl_floordiv"), "FLOORMOD": ("%", "fl_floormod")}
_TYPES = {"float": "float", "weakfloat": "float", "int": "int32_t", "weakint": "int32_t", "bool": "_Bool"}
_JOIN: Mapping[str, tuple[str, Callable[[str, str], str]]] = {
    "ADD": ("0.0f", lambda held, new: f"{held} += {new};"),
    "MAX": ("-INFINITY", lambda held, new: f"{held} = {held} < {new} ? {new} : {held};"),
    "MUL": ("1.0f", lambda held, new: f"{held} *= {new};"),
}


class Unwritable(ConfigError):
    """A scheduled kernel has no C form here."""


def write_scheduled(sink: Any, name: str, tile: Tile) -> tuple[str, list[int]]:
    """Return the C function `name` of a scheduled kernel, and for each argument the position in the kernel's call."""
    return _Kernel(sink, tile).write(name)


class _Kernel:
    def __init__(self, sink: Any, tile: Tile) -> None:
        self._fresh = 1 + max((u.arg[0] for u in sink.toposort() if u.op.name == "RANGE"), default=0)
        self._places: dict[int, tuple[int, ...]] = {}
        self._rows: Any = None
        self._groups: Any = None
        self._lanes: Any = None
        stores = [u for u in sink.toposort() if u.op.name == "STORE"]
        if len(stores) != 1 or stores[0].src[0].op.name != "INDEX":
            raise Unwritable(f"a kernel with {len(stores)} stores has no C form")
        sink = self._taken_apart(stores[0].simplify())
        if any(u.op.name == "REDUCE" for u in sink.toposort()):
            sink = self._cut(sink, tile)
        self._sums = [u for u in sink.toposort() if u.op.name == "REDUCE"]
        self._store = sink
        self._inner = {c for total in self._sums for c in total.src[1:]}
        self._packs: dict[Any, tuple[str, Any]] = {}
        self._tile, self._wide, self._pack_step = tile, 1, 1
        self._slots = sorted({u.arg.slot for u in sink.toposort() if u.op.name == "PARAM"})

    # -- cutting

    def _cut(self, sink: Any, tile: Tile) -> Any:
        """Cut the counters of the result: lanes and groups of the best one, rows of the next that can be cut."""
        sink = self._merged(sink)
        outer = self._outer(sink)
        if not outer:
            return sink
        lane = max(reversed(outer[-2:]), key=lambda c: fitness(sink, c, tile))
        sink, self._lanes, rest = self._best(sink, lane, tile.lanes)
        if rest is not None and self._lanes is not None:
            sink, self._groups, rest = self._best(sink, rest, tile.groups)
        others = [c for c in reversed(outer) if c is not lane]
        for counter in [*others, *([rest] if rest is not None else [])]:
            sink, self._rows, _ = self._best(sink, counter, tile.rows)
            if self._rows is not None:
                break
        return sink

    def _outer(self, sink: Any) -> list[Any]:
        """Return the counters of the result, outermost first; a cut one is followed by its inner part."""
        inner = {c for u in sink.toposort() if u.op.name == "REDUCE" for c in u.src[1:]}
        counters = (u for u in sink.toposort() if u.op.name == "RANGE" and u not in inner)
        return sorted(counters, key=self._place)

    def _place(self, counter: Any) -> tuple[int, ...]:
        return self._places.get(counter.arg[0], (counter.arg[0],))

    def _taken_apart(self, sink: Any) -> Any:
        """Take counters apart that the scheduler made of two: where places hold a remainder, divisions go away."""
        inner = {c for u in sink.toposort() if u.op.name == "REDUCE" for c in u.src[1:]}
        for node in sink.toposort():
            if node.op.name == "FLOORMOD" and node.src[0].op.name == "RANGE" and node.src[0] not in inner:
                size, part = int(node.src[0].vmax) + 1, int(node.src[1].vmax)
                if node.src[1].op.name == "CONST" and 1 < part < size and size % part == 0:
                    return self._taken_apart(self._split(sink, node.src[0], part)[0])
        return sink

    def _merged(self, sink: Any) -> Any:
        """Make one counter of the two innermost ones where every place takes them as one."""
        outer = self._outer(sink)
        if len(outer) < 2:
            return sink
        (first, last), size = outer[-2:], int(outer[-1].vmax) + 1
        count = size * (int(first.vmax) + 1)
        whole = first.replace(arg=(self._fresh, *first.arg[1:]), src=(first.src[0].const_like(count),))
        found = sink.substitute({first: whole // size, last: whole % size}).simplify()
        if any(u.op.name in _FLOOR and whole in u.backward_slice for u in found.toposort()):
            return sink
        self._places[self._fresh] = self._place(first)
        self._fresh += 1
        return self._merged(found)

    def _split(self, sink: Any, counter: Any, count: int) -> tuple[Any, Any, Any]:
        """Return (kernel, inner counter of `count`, outer counter or None)."""
        size = int(counter.vmax) + 1
        inner = counter.replace(arg=(self._fresh, *counter.arg[1:]), src=(counter.src[0].const_like(count),))
        outer = counter.replace(src=(counter.src[0].const_like(size // count),)) if size > count else None
        self._places[self._fresh] = (*self._place(counter), 1)
        self._fresh += 1
        place = inner if outer is None else outer * count + inner
        return sink.substitute({counter: place}).simplify(), inner, outer

    def _best(self, sink: Any, counter: Any, most: int) -> tuple[Any, Any, Any]:
        """Return (kernel, inner counter, outer counter): the largest cut that leaves no division of the inner one."""
        size = int(counter.vmax) + 1
        for count in range(min(most, size), 1, -1):
            if size % count:
                continue
            found, inner, outer = self._split(sink, counter, count)
            if not any(u.op.name in _FLOOR and inner in u.backward_slice for u in found.toposort()):
                return found, inner, outer
        return sink, None, counter

    # -- writing

    def write(self, name: str) -> tuple[str, list[int]]:
        """Return (C text, slots of the arguments)."""
        sizes = [1 if c is None else int(c.vmax) + 1 for c in (self._rows, self._groups, self._lanes)]
        self._copies = list(itertools.product(range(sizes[0]), range(sizes[1])))
        width = sizes[2]
        mine = {id(c) for c in (self._rows, self._groups, self._lanes) if c is not None}
        loops = [c for c in self._outer(self._store) if id(c) not in mine]
        kinds = {u.arg.slot: _type(u) for u in self._store.toposort() if u.op.name == "PARAM"}
        target = self._store.src[0].src[0].arg.slot
        heads = [f"{'' if s == target else 'const '}{kinds[s]} *restrict p{s}" for s in self._slots]
        wide = self._wide = self._packed(self._tile)
        self._pack_step = sizes[1] * wide
        early = [c for c in loops if any(c in load.backward_slice for load in self._packs)]
        lines = [f"static void {name}({', '.join(heads)}) {{", *[_for(c) for c in early]]
        for load in self._packs:
            lines += self._pack(load)
        lines += [_for(c) for c in loops if c not in early]
        number = {total: i for i, total in enumerate(self._sums)}
        for total, i in number.items():
            start, join = _JOIN.get(total.arg[0].name, ("", None))
            if join is None:
                raise Unwritable(f"a sum by {total.arg[0].name} has no C form")
            self._check(total)
            lanes = "" if wide == 1 else f"for (int32_t l = 0; l < {wide}; ++l) "
            for r, g in self._copies:
                held = f"s{i}_{r}_{g}"
                lines += [
                    f"float {held}[{wide}];",
                    f"{lanes}{held}[{'0' if wide == 1 else 'l'}] = {start};",
                ]
            counters = list(total.src[1:])
            block = _Block(self, number, wide)
            for copy in self._copies:
                held = f"s{i}_{copy[0]}_{copy[1]}[{block.lane}]"
                block.lines.append(join(held, block.text(total.src[0], copy)))
            lines += [*[_for(c) for c in counters], *block.whole(), "}" * len(counters)]
        block = _Block(self, number, width)
        place, value = self._store.src[0], self._store.src[1]
        for copy in self._copies:
            block.lines.append(f"p{target}[{block.text(place.src[1], copy)}] = {block.text(value, copy)};")
        lines += [*block.whole(), "}" * len(loops), "}", ""]
        return "\n".join(lines), self._slots

    def _packed(self, tile: Tile) -> int:
        """Choose the loads that are copied side by side first; return the lanes that a sum then has.

        They are those whose lanes lie apart and that serve many rows, as weights on the way back: gathering them for
        every row is slow. Where a few lanes are all there are (ten classes), every load is copied, zeros fill the vector.
        """
        if self._lanes is None:
            return 1
        width = int(self._lanes.vmax) + 1
        loads = {
            load: total.src[1]
            for total in self._sums
            for load in total.src[0].toposort()
            if load.op.name == "INDEX" and self._lanes in load.backward_slice
        }
        fit = {load: counter for load, counter in loads.items() if self._can_pack(load, counter)}
        is_filled = (
            self._groups is None and tile.lanes // 4 < width < tile.lanes and fit.keys() == loads.keys()
        )
        chosen = fit if is_filled else {u: c for u, c in fit.items() if stride(u, self._lanes) != 1}
        self._packs = {load: (f"q{i}", counter) for i, (load, counter) in enumerate(chosen.items())}
        return tile.lanes if is_filled else width

    def _can_pack(self, load: Any, counter: Any) -> bool:
        return (
            self._rows is not None
            and self._rows not in load.backward_slice
            and counter in load.backward_slice
            and int(counter.vmax) < _MOST_PACKED
            and _type(load) == "float"
            and not any(
                u.op.name == "RANGE" and u is not counter and u in self._inner for u in load.backward_slice
            )
        )

    def _pack(self, load: Any) -> list[str]:
        name, counter = self._packs[load]
        width = int(self._lanes.vmax) + 1
        size = (int(counter.vmax) + 1) * self._pack_step
        lines = [f"float {name}[{size}]{' = {0}' if width < self._wide else ''};"]
        for group in range(self._pack_step // self._wide):
            block = _Block(self, {}, width, is_packing=True)
            place = block.text(load, (0, group))
            step = f"{_counter(counter)}*{self._pack_step} + {group * self._wide} + l"
            lines += [f"for (int32_t l = 0; l < {width}; ++l) {{", "FL_PLAIN_LOOP", _for(counter)]
            lines += [*block.lines, f"{name}[{step}] = {place};", "}", "}"]
        return lines

    def read_packed(self, load: Any, copy: tuple[int, int]) -> str:
        """Return where the copy of a load is, or "" when it is not packed."""
        if load not in self._packs:
            return ""
        name, counter = self._packs[load]
        return f"{name}[{_counter(counter)}*{self._pack_step} + {copy[1] * self._wide} + l]"

    def _check(self, total: Any) -> None:
        mine = set(total.src[1:])
        for inner in total.src[0].toposort():
            if inner.op.name == "REDUCE" and mine & set(inner.backward_slice):
                raise Unwritable("a sum inside a sum has no C form; put .contiguous() between them")

    def is_tiled(self, node: Any) -> str:
        """Return which of our counters this is: "rows", "groups", "lanes" or ""."""
        for word, counter in (("rows", self._rows), ("groups", self._groups), ("lanes", self._lanes)):
            if counter is not None and node is counter:
                return word
        return ""


class _Block:
    """Statements inside the lane loop; every value is computed once per copy that needs it."""

    def __init__(
        self, kernel: _Kernel, number: Mapping[Any, int], width: int, *, is_packing: bool = False
    ) -> None:
        self._kernel, self._number, self._width, self._is_packing = kernel, number, width, is_packing
        self.lane = "0" if width == 1 else "l"
        self.lines: list[str] = []
        self._known: dict[tuple[Any, tuple[int, int]], str] = {}
        self._tiled: dict[Any, frozenset[str]] = {}
        self._names = 0

    def whole(self) -> list[str]:
        """Return the statements within their loop."""
        if self._width == 1:
            return ["{", *self.lines, "}"]
        return [f"for (int32_t l = 0; l < {self._width}; ++l) {{", *self.lines, "}"]

    def text(self, node: Any, copy: tuple[int, int]) -> str:
        """Return a C expression for `node` in the copy (row, group), writing what it needs first."""
        depends = self._depends(node)
        key = (node, (copy[0] if "rows" in depends else 0, copy[1] if "groups" in depends else 0))
        if key not in self._known:
            self._known[key] = self._write(node, copy)
        return self._known[key]

    def _depends(self, node: Any) -> frozenset[str]:
        """Return which of rows, groups and lanes the value of a node depends on."""
        if node not in self._tiled:
            word = self._kernel.is_tiled(node)
            found = {word} if word else set()
            if node in self._number:
                found = {"rows", "groups", "lanes"}
            for source in node.src:
                found |= self._depends(source)
            self._tiled[node] = frozenset(found)
        return self._tiled[node]

    def _write(self, node: Any, copy: tuple[int, int]) -> str:
        op, kind = node.op.name, _type(node)
        word = self._kernel.is_tiled(node)
        if word:
            return {"rows": str(copy[0]), "groups": str(copy[1]), "lanes": self.lane}[word]
        if node in self._number:
            return f"s{self._number[node]}_{copy[0]}_{copy[1]}[{self.lane}]"
        if op == "CONST":
            return _literal(node, kind)
        if op == "RANGE":
            return _counter(node)
        if op == "INDEX":
            return self._named(kind, self._load(node, copy))
        args = [self.text(source, copy) for source in node.src]
        if op in _FLOOR:
            sign, call = _FLOOR[op]
            words = (
                f"({args[0]}{sign}{args[1]})" if node.src[0].vmin >= 0 else f"{call}({args[0]}, {args[1]})"
            )
        elif op in _INFIX:
            words = f"({f' {_INFIX[op]} '.join(args)})"
        elif op in _CALLS:
            words = f"{_CALLS[op]}({args[0]})"
        elif op == "MAX":
            a, b = (self._named(kind, arg) for arg in args)
            words = f"({a} < {b} ? {b} : {a})"
        elif op == "WHERE":
            words = f"({args[0]} ? {args[1]} : {args[2]})"
        elif op in ("CAST", "NEG", "RECIPROCAL"):
            words = {
                "CAST": f"(({kind}){args[0]})",
                "NEG": f"(-{args[0]})",
                "RECIPROCAL": f"(1.0f/{args[0]})",
            }[op]
        else:
            raise Unwritable(f"tinygrad's {op} has no C form")
        return words if kind == "int32_t" else self._named(kind, words)

    def _load(self, node: Any, copy: tuple[int, int]) -> str:
        if not self._is_packing and (packed := self._kernel.read_packed(node, copy)):
            return packed
        source, place = node.src[0], node.src[1]
        if len(node.src) != 2 or source.op.name != "PARAM":
            raise Unwritable("a load from something else than a buffer has no C form")
        if place.op.name == "WHERE" and _is_invalid(place.src[2]):
            gate, at = self.text(place.src[0], copy), self.text(place.src[1], copy)
            return f"({gate} ? p{source.arg.slot}[{at}] : 0)"
        return f"p{source.arg.slot}[{self.text(place, copy)}]"

    def _named(self, kind: str, words: str) -> str:
        if words.isidentifier():
            return words
        self._names += 1
        self.lines.append(f"const {kind} t{self._names} = {words};")
        return f"t{self._names}"


def _counter(counter: Any) -> str:
    return f"r{counter.arg[0]}"


def _for(counter: Any) -> str:
    name = _counter(counter)
    return f"for (int32_t {name} = 0; {name} < {int(counter.vmax) + 1}; ++{name}) {{"


def _type(node: Any) -> str:
    name = str(node.dtype).removeprefix("dtypes.")
    if name not in _TYPES:
        raise Unwritable(f"numbers of type {name} have no C form")
    return _TYPES[name]


def _is_invalid(node: Any) -> bool:
    return node.op.name == "CONST" and type(node.arg).__name__ == "InvalidType"


def _literal(node: Any, kind: str) -> str:
    if _is_invalid(node):
        raise Unwritable("an invalid place outside of a load has no C form")
    value = float(node.arg)
    if kind != "float":
        return str(int(value))
    if not math.isfinite(value):
        return "NAN" if math.isnan(value) else "INFINITY" if value > 0 else "(-INFINITY)"
    return f"{value!r}f"
