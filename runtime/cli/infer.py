"""The verb that runs a model file: infer."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flocklet.cli.output import Output
from flocklet.errors import ConfigError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["add_parser", "run"]

_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
}


def add_parser(verbs: Any) -> None:
    """Add the verb of this module."""
    infer = verbs.add_parser(
        "infer",
        help="run an ONNX file on numbers",
        description="Run any ONNX file with onnxruntime on one thread. Without --input the inputs are listed.",
    )
    infer.add_argument("model", type=Path, metavar="MODEL.onnx")
    infer.add_argument(
        "--input", action="append", default=[], metavar="[NAME=]FILE",
        help="a .npy file, a .csv file of numbers, a JSON file of nested lists, or - for JSON on standard input",
    )  # fmt: skip
    infer.add_argument("--output", type=Path, metavar="FILE.npy", help="write the first output there")
    infer.add_argument("--repeat", type=int, default=0, metavar="N", help="also time N runs")
    infer.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the verb; return the exit code."""
    import numpy as np

    from flocklet.onnx_io.model import OnnxSession

    output = Output(args)
    session = OnnxSession(args.model)
    shapes = {name: list(shape) for name, (_, shape) in session.inputs.items()}
    if not args.input:
        output.document({"inputs": shapes, "outputs": session.outputs})
        output.table(
            ["input", "type", "shape"],
            [(n, t, "x".join(map(str, s))) for n, (t, s) in session.inputs.items()],
        )
        output.remark("give each with --input NAME=FILE")
        return 0
    feeds = {}
    unnamed = list(session.inputs)
    for text in args.input:
        name, found, file = text.rpartition("=")
        if not found:
            name = unnamed[0] if unnamed else ""
        if name not in session.inputs:
            raise UsageError(f"the model has no input '{name}'; it has {', '.join(session.inputs)}")
        if name in unnamed:
            unnamed.remove(name)
        feeds[name] = _read(file, _TYPES.get(session.inputs[name][0]))
    results = session.run(feeds)
    timing: dict[str, float] = {}
    if args.repeat > 0:
        call = session.bind(feeds, {k: np.empty_like(v) for k, v in results.items()})
        samples = []
        for _ in range(args.repeat):
            start = time.perf_counter()
            call()
            samples.append((time.perf_counter() - start) * 1e6)
        timing = {
            "median_us": round(float(np.median(samples)), 2),
            "p99_us": round(float(np.percentile(samples, 99)), 2),
        }
    if args.output is not None:
        try:
            np.save(args.output, next(iter(results.values())))
        except OSError as error:
            raise ConfigError(f"cannot write {args.output}: {error.strerror}") from error
    output.document({"outputs": {k: v.tolist() for k, v in results.items()}, **timing})
    for name, array in results.items():
        output.line(f"{name} {'x'.join(map(str, array.shape))}")
        if args.output is None:
            output.line(np.array2string(array, max_line_width=100, threshold=200))
    if timing:
        output.remark(
            f"median {timing['median_us']} us, 99 % within {timing['p99_us']} us, 1 thread, IO binding"
        )
    return 0


def _read(file: str, dtype: str | None) -> NDArray[np.generic]:
    """Return the array in a .npy, CSV or JSON file (never a pickle), as the type the model wants."""
    import numpy as np

    try:
        if file.endswith(".npy"):
            array = np.load(file, allow_pickle=False)
        elif file.endswith(".csv"):
            lines = Path(file).read_text(encoding="utf-8").splitlines()
            if not any(line.strip() for line in lines):
                raise ValueError("it is empty")
            array = np.loadtxt(lines, delimiter=",", ndmin=2)
        else:
            text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
            array = np.array(json.loads(text))
        if array.dtype.kind not in "fiub":
            raise ValueError("it holds no plain numbers")
        return np.ascontiguousarray(array, dtype)
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"cannot use {file}: {str(error).splitlines()[0][:160]}") from error
