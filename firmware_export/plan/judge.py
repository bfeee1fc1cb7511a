"""Let the file judge our reading of it: onnxruntime runs it, and every output must agree.

The proof on emulated cores compares the C with our own reading, so it cannot see a file that was read wrongly. Here
the original file is run, one observation at a time, with the tensor that is exported as an output of its own. Bound
per output: |ours - file| <= 1e-4 max(1, max |file|).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flocklet.errors import ConfigError, ExportError, MissingExtra
from flocklet.firmware_export.plan.reference import forward, hidden_size
from flocklet.firmware_export.read.onnx_reader import Reading
from flocklet.onnx_io.model import OnnxSession, with_output

__all__ = ["BOUND", "Comparison", "agreement", "compare", "open_file", "run_file"]

F32: TypeAlias = npt.NDArray[np.float32]
BOUND = 1e-4


@dataclass(frozen=True)
class Comparison:
    """Hold what was compared: onnxruntime's version, the observations and the largest difference."""

    engine: str
    observations: int
    largest: float

    def to_json(self) -> dict[str, Any]:
        """Return the comparison for the manifest."""
        return {
            "with": self.engine,
            "observations": self.observations,
            "largest_difference": self.largest,
            "bound": BOUND,
        }


def open_file(path: Path, output: str) -> OnnxSession:
    """Open an ONNX file in onnxruntime with a tensor among its outputs; raise `ExportError` where it cannot run."""
    way_out = "install a working onnxruntime, or pass --uncompared to export it all the same"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ExportError(f"cannot read {path}: {error.strerror}") from error
    try:
        session = OnnxSession(data, folder=path.resolve().parent, literal=True)
        if output in session.outputs:
            return session
        return OnnxSession(with_output(data, output), folder=path.resolve().parent, literal=True)
    except MissingExtra as error:
        raise ExportError(
            f"{path.name} cannot be compared with what the C computes: onnxruntime does not work here",
            remedy=way_out,
        ) from error
    except ExportError as error:
        raise ExportError(f"{path.name} cannot be compared: {error}", remedy=way_out) from error


def run_file(
    session: OnnxSession, output: str, feeds: dict[str, npt.NDArray[Any]]
) -> npt.NDArray[np.float64]:
    """Return one output of a file, flat; raise `ExportError` where onnxruntime cannot compute it."""
    kinds = {"tensor(double)": np.float64, "tensor(float)": np.float32, "tensor(int64)": np.int64}
    given = {
        name: np.asarray(feeds[name], kinds.get(kind, np.float32))
        for name, (kind, _) in session.inputs.items()
    }
    try:
        return np.asarray(session.run(given)[output], np.float64).reshape(-1)
    except (ConfigError, ValueError, TypeError) as error:
        raise ExportError(f"onnxruntime cannot run this file: {error}") from error


def agreement(ours: npt.NDArray[Any], file: npt.NDArray[Any]) -> float:
    """Return the largest difference in units of the bound of its output: at most 1 where all agree.

    ours, file: (n, n_out). Where both are the same infinity or both no number they agree.
    """
    ours, file = np.asarray(ours, np.float64), np.asarray(file, np.float64)
    if ours.shape != file.shape:
        return float("inf")
    same = (ours == file) | (np.isnan(ours) & np.isnan(file))
    if not (same | (np.isfinite(ours) & np.isfinite(file))).all():
        return float("inf")
    size = np.where(np.isfinite(file), np.abs(file), 0.0).max(axis=0, initial=1.0)
    with np.errstate(invalid="ignore"):
        excess = np.where(same, 0.0, np.abs(ours - file)) / (BOUND * size)
    return float(excess.max(initial=0.0))


def compare(path: Path, reading: Reading, x: F32) -> Comparison:
    """Compare our reading of a file with onnxruntime on observations (n, n_in); raise `ExportError` where they differ.

    Hidden values that come in by an input of the file are drawn too.
    """
    network = reading.as_written
    session = open_file(path, reading.output)
    hidden = np.random.default_rng(1).uniform(-1, 1, (len(x), hidden_size(network))).astype(np.float32)
    at = 0
    drawn: dict[str, slice] = {}
    for name, layer in zip(reading.states, network.recurrent, strict=True):
        if name:
            drawn[name] = slice(at, at + layer.n_out)
        else:
            hidden[:, at : at + layer.n_out] = 0
        at += layer.n_out
    shapes = {
        name: tuple(size if isinstance(size, int) else 1 for size in shape)
        for name, (_, shape) in session.inputs.items()
    }
    file = []
    for row, start in zip(x, hidden, strict=True):
        feeds: dict[str, npt.NDArray[Any]] = {name: np.zeros(shape) for name, shape in shapes.items()}
        place = 0
        for name, width in network.inputs:
            feeds[name] = row[place : place + width].reshape(reading.shapes[name])
            place += width
        for name, part in drawn.items():
            feeds[name] = start[part].reshape(reading.shapes[name])
        file.append(run_file(session, reading.output, feeds))
    with np.errstate(all="ignore"):
        ours = forward(network, x, hidden=hidden.copy())
    if any(row.size != network.n_out for row in file):
        raise ExportError(
            f"the file gives {file[0].size} values in '{reading.output}', our reading of it {network.n_out}",
            remedy="please report it: the file is read wrongly",
        )
    wanted = np.array(file)
    if agreement(ours, wanted) > 1:
        worst = int(np.argmax(np.nan_to_num(np.abs(ours - wanted), nan=np.inf).max(axis=0)))
        raise ExportError(
            f"output {worst} of '{reading.output}' is {wanted[0, worst]:.6g} by onnxruntime and {ours[0, worst]:.6g} by "
            "our reading of the file: it is not exported",
            remedy="please report it: the file is read wrongly",
        )
    return Comparison(session.engine, len(x), float(np.abs(ours - wanted).max(initial=0.0)))
