"""The same kernels on a GPU, through tinygrad's runtime: one thread per column, captured as a graph by
TinyJit.

Use it for simulation and elementwise work on wide batches (from about 10,000 columns); nets on a GPU are
better written as tinygrad Tensors, whose scheduler tiles matrix products. The process must not have used
tinygrad for the CPU before: tinygrad reads its device once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import ConfigError
from flocklet.kernels.kernel import Kernel
from flocklet.kernels.render.tinygrad_adapter import load_tinygrad

__all__ = ["DeviceKernel", "find_device", "open_device"]


def find_device(environ: Mapping[str, str] | None = None) -> str | None:
    """Return what to set `DEV` to for the GPU whose driver is here (nothing is opened), or None.

    `FLOCKLET_GPU` names one explicitly, for example CUDA:PTX; "none" forbids it.
    """
    env = os.environ if environ is None else environ
    wanted = env.get("FLOCKLET_GPU", "")
    if wanted:
        return None if wanted.lower() == "none" else wanted
    if sys.platform == "darwin":
        return "METAL"
    if Path("/dev/nvidiactl").exists() or find_library("cuda"):
        return "CUDA"
    if Path("/dev/kfd").exists():
        return "AMD"
    return "CL" if find_library("OpenCL") else None


def open_device(environ: Mapping[str, str] | None = None) -> str:
    """Open the GPU and return tinygrad's name for it; raise ConfigError with the reason when it does not
    compute.

    `DEV` is set when it is not, so this must come before anything else that imports tinygrad in this process.
    """
    found = find_device(environ)
    remedy = "kernels run on the processor instead; FLOCKLET_GPU=CUDA:PTX needs nothing but the driver"
    if found is None:
        raise ConfigError("no GPU driver found", remedy=remedy)
    os.environ.setdefault("DEV", found)
    tg = load_tinygrad()
    try:
        name = str(tg.Device.DEFAULT)
        result = (tg.Tensor([1.0, 2.0]) * 2).tolist()
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"the GPU ({os.environ['DEV']}) does not compute: {first[:160]}", remedy=remedy
        ) from error
    if result != [2.0, 4.0] or name in ("CPU", "PYTHON"):
        raise ConfigError(f"tinygrad opened {name}, which is not a working GPU", remedy=remedy)
    return name


class DeviceKernel:
    """One kernel on a GPU with its buffers there: `write`, call, `read`."""

    def __init__(self, kernel: Kernel, device: str, *, threads: int = 128) -> None:
        if kernel.emit_device is None:
            raise ConfigError(f"kernel {kernel.symbol} has no GPU form", remedy="run it as a native Program")
        tg = load_tinygrad()
        self._tg = tg
        self._device = device
        self._buffers = [
            tg.Tensor(np.zeros(n, np.float32), device=device).contiguous().realize() for n in kernel.sizes
        ]
        emit = kernel.emit_device

        def body(*buffers: Any) -> Any:
            return emit(kernel.symbol, buffers, threads)

        def run(*tensors: Any) -> None:
            tg.Tensor.realize(*tensors[0].custom_kernel(*tensors[1:], fxn=body))

        self._run = tg.TinyJit(run)

    def write(self, index: int, values: NDArray[np.float32]) -> None:
        """Copy `values` into buffer `index`."""
        tensor = self._tg.Tensor(np.ascontiguousarray(values.reshape(-1)), device=self._device)
        self._buffers[index].assign(tensor).realize()

    def read(self, index: int) -> NDArray[np.float32]:
        """Return a copy of buffer `index`; waits for the GPU."""
        out: NDArray[np.float32] = self._buffers[index].numpy()
        return out

    def __call__(self, order: Sequence[int] | None = None) -> None:
        """Queue one run; `order` exchanges buffers (for example input and output state)."""
        chosen = self._buffers if order is None else [self._buffers[i] for i in order]
        self._run(*chosen)

    def wait(self) -> None:
        """Return when the GPU has finished."""
        self._tg.Device[self._device].synchronize()
