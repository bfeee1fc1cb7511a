"""The same kernels on a GPU, through tinygrad's runtime: one thread per column, captured as a graph by TinyJit.

Use it for simulation and elementwise work on wide batches (from about 10,000 columns); nets on a GPU are better written as
tinygrad Tensors, whose scheduler tiles matrix products. The process must not have used tinygrad for the CPU before:
tinygrad reads its device once. Tried in order: CUDA, NV, METAL, AMD, CL, or what `FLOCKLET_GPU` names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import ConfigError
from flocklet.kernels.kernel import Kernel
from flocklet.kernels.tinygrad_adapter import load_tinygrad

__all__ = ["DeviceKernel", "open_device"]

_CANDIDATES = ("CUDA", "NV", "METAL", "AMD", "CL")


def open_device(environ: Mapping[str, str] | None = None) -> str:
    """Open the first GPU that works and return its name; raise ConfigError with each refusal when none does."""
    env = os.environ if environ is None else environ
    wanted = env.get("FLOCKLET_GPU", "")
    names = (wanted,) if wanted else _CANDIDATES
    os.environ.setdefault("DEV", names[0])
    tg = load_tinygrad()
    refusals = []
    for name in names:
        try:
            tg.Device[name]
            probe = (tg.Tensor([1.0, 2.0], device=name) * 2).tolist()
        except Exception as error:
            refusals.append(f"{name}: {(str(error).splitlines() or [type(error).__name__])[0][:80]}")
            continue
        if probe == [2.0, 4.0]:
            return name
        refusals.append(f"{name}: wrong result")
    raise ConfigError("no GPU works here (" + "; ".join(refusals) + ")", remedy="CPU kernels are used instead")


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
