"""Keep the search index in a file beside the store, so that a start does not index everything anew."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import zipfile
from pathlib import Path

import numpy as np

from flocklet.errors import StoreError
from flocklet.models.search.index.index import Index

__all__ = ["load_index", "save_index"]

_log = logging.getLogger("flocklet.store")
_NAME = "index.npz"
_GENERATION = "documents_generation"


def save_index(folder: Path, index: Index, generation: int) -> None:
    """Write the index of the documents of `generation`, whole or not at all; raise StoreError when that fails."""
    scratch = folder / f".{_NAME}.{secrets.token_hex(4)}"
    try:
        with scratch.open("xb") as file:
            np.savez(file, allow_pickle=False, **{_GENERATION: np.array([generation])}, **index.to_arrays())
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(folder / _NAME)
    except OSError as error:
        raise StoreError(f"cannot keep the search index in {folder}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


def load_index(folder: Path, generation: int) -> Index | None:
    """Return the index if it is that of `generation`; None when there is none, an old one, or a damaged one."""
    try:
        with (folder / _NAME).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if int(arrays[_GENERATION][0]) != generation:
                return None
            return Index.from_arrays({name: arrays[name] for name in arrays.files})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile, StoreError) as error:
        _log.warning("the search index in %s is not used (%s); it is built anew", folder, error)
        return None
