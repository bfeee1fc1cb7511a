"""Read the numbers that an ONNX file keeps in other files: only files that lie beside it, or below.

The location is text of the model's author and is not trusted: it must be relative, and after following
links the file must still lie in the folder of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flocklet.errors import ExportError
from flocklet.onnx_io.parse import MAX_BYTES, Model, parse_model

__all__ = ["beside", "parse_file"]


def beside(model: Path) -> Callable[[str, int, int | None], bytes]:
    """Return what reads (location, offset, length) from the folder of a model; it raises `ExportError`."""
    folder = model.resolve().parent

    def read(location: str, offset: int, length: int | None) -> bytes:
        try:
            path = (folder / location).resolve()
            if not path.is_relative_to(folder):
                raise ExportError(f"the model keeps data in '{location}', outside its own folder")
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read(MAX_BYTES + 1 if length is None else min(length, MAX_BYTES + 1))
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "no such place"
            raise ExportError(
                f"cannot read '{location}', where the model keeps its data: {why}",
                remedy="put the data file beside the model, under the name it was saved with",
            ) from error
        if len(data) > MAX_BYTES or (length is not None and len(data) != length):
            raise ExportError(f"'{location}' is too short or too long for what the model keeps in it")
        return data

    return read


def parse_file(path: Path | str) -> Model:
    """Parse an ONNX file and the data files beside it; raise `ExportError` where that cannot be done."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ExportError(
            f"cannot read {path}: {error.strerror}", remedy="pass the path of an ONNX file"
        ) from error
    return parse_model(data, beside(Path(path)))
