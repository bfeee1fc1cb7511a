"""Functions of tinygrad tensors as C loops: every kind of kernel that its schedule makes, against NumPy."""

import ctypes

import numpy as np
import pytest

from flocklet.kernels.compile.compilers import find_compilers
from flocklet.kernels.compile.library_cache import LibraryCache, load_library
from flocklet.kernels.kernel import Tile
from flocklet.kernels.render.portable_c import PREAMBLE
from flocklet.kernels.render.scheduled_c import FUNCTIONS, Unwritable
from flocklet.kernels.render.tensor_adapter import Argument, gradients, lower

ARGUMENTS = [
    Argument("a", (20, 12)),
    Argument("b", (12, 10)),  # ten lanes: filled with zeros to a vector
    Argument("c", (64, 12)),  # read across: copied side by side
    Argument("d", (37,)),
    Argument("classes", (20,), is_whole=True),
]


def function(t):
    a, b, c, d, classes = (t[x.name] for x in ARGUMENTS)
    product = (a @ b).contiguous()
    soft = product.sparse_categorical_crossentropy(classes, reduction="none")
    return {
        "product": product + 1.0,
        "across": a @ c.transpose(),
        "outer": a.transpose() @ product,
        "sum": d.sum().reshape(1),
        "most": a.max(axis=1),
        "padded": d.pad(((3, 2),)).reverse(0) if hasattr(d, "reverse") else d.pad(((3, 2),)).flip(0),
        "joined": d.cat(d * 2.0, d[:5]),
        "mathematics": (d.exp() + (d * d + 1).log() + d.sin() + (d * d).sqrt() + d.trunc()) / (1 + d * d),
        "any": (a > 1.5).any(axis=1).float(),
        "soft": soft,
        "slope": gradients(soft, {"b": b})["b"],
        "shifted": (classes + 3).float() - (classes // 2).float() * (classes % 3).float(),
    }


def expected(a, b, c, d, classes):
    product = a @ b
    shares = np.exp(product - product.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    hot = np.eye(10)[classes]
    mathematics = np.exp(d) + np.log(d * d + 1) + np.sin(d) + np.abs(d) + np.trunc(d)
    return {
        "product": product + 1, "across": a @ c.T, "outer": a.T @ product, "sum": d.sum()[None], "most": a.max(1),
        "padded": np.pad(d, (3, 2))[::-1], "joined": np.concatenate([d, 2 * d, d[:5]]),
        "mathematics": mathematics / (1 + d * d), "any": (a > 1.5).any(1), "soft": -np.log((shares * hot).sum(1)),
        "slope": a.T @ (shares - hot), "shifted": classes + 3 - classes // 2 * (classes % 3),
    }  # fmt: skip


def source(lowered, results):
    """Return a C entry that takes arguments, results and scratch, in this order."""
    number = {(a.name, False): i for i, a in enumerate(ARGUMENTS)}
    number |= {(name, True): len(ARGUMENTS) + i for i, name in enumerate(results)}
    lines = []
    for name, operands in lowered.calls:
        words = [
            f"b[{number[o.name, o.is_result]}]"
            if o.name
            else f"(void *)((char *)b[{len(number)}]+{o.offset})"
            for o in operands
        ]
        lines.append(f"{name}({', '.join(words)});")
    body = "\n".join(lines)
    texts = "\n".join(lowered.texts)
    return f"{PREAMBLE}{FUNCTIONS}{texts}\nvoid run(void *const *b, long lo, long hi) {{\n{body}\n}}\n"


@pytest.mark.skipif(not find_compilers(), reason="no C compiler on the path")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("tile", [Tile(4, 4, 16), Tile(4, 1, 8)], ids=lambda tile: tile.key)
def test_every_kind_of_kernel_computes_what_numpy_does(tile, tmp_path):
    rng = np.random.default_rng(1)
    given = [rng.normal(size=a.shape).astype(np.float32) for a in ARGUMENTS[:-1]]
    given.append(rng.integers(0, 10, 20).astype(np.int32))
    wanted = expected(*[*(x.astype(np.float64) for x in given[:-1]), given[-1]])
    lowered = lower(function, ARGUMENTS, tile)
    text = source(lowered, list(wanted))
    assert lowered.texts == lower(function, ARGUMENTS, tile).texts  # the same text for the same function
    if tile.lanes == 16:
        assert "= {0}" in text and "FL_PLAIN_LOOP\nfor" in text  # a filled vector and a copy are among them
    results = {name: np.full(np.shape(x), np.nan, np.float32) for name, x in wanted.items()}
    scratch = np.zeros(lowered.scratch_bytes // 4 + 16, np.float32)
    arrays = [*given, *results.values(), scratch]
    sizes = [array.size for array in arrays]
    path = LibraryCache(tmp_path).build("tensors", text, find_compilers()[0], symbol="run", sizes=sizes)
    table = (ctypes.c_void_p * len(arrays))(*[array.ctypes.data for array in arrays])
    load_library(path)["run"](table, ctypes.c_long(0), ctypes.c_long(1))
    for name, values in wanted.items():
        np.testing.assert_allclose(results[name], values, atol=3e-5, rtol=1e-4, err_msg=name)


def test_what_has_no_c_form_is_named():
    with pytest.raises(Unwritable, match="numbers of type double"):
        lower(lambda t: {"x": t["d"].cast("float64")}, ARGUMENTS, Tile())
    with pytest.raises(ValueError, match="is an argument"):
        lower(lambda t: {"x": t["d"]}, ARGUMENTS, Tile())
