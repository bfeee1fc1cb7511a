"""Pack a network for the kernels: which arrays go into flash, in which order, and how the layers use them.

The arrays form one C struct (`NAME_weights_t`) without padding; its little-endian bytes are also the
payload of a weights blob.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from flocklet.errors import ExportError
from flocklet.firmware_export.plan.field import Field, pack_dense
from flocklet.firmware_export.plan.quantise import quantise
from flocklet.firmware_export.read.network import Activation, Affine, Dense, Gru, Network
from flocklet.firmware_export.read.semantics import ActionSpec, ObsSpec, column_order

__all__ = ["DTYPES", "Plan", "make_plan"]

DTYPES = ("f32", "w16", "i16", "w8")


@dataclass(frozen=True, eq=False)
class Plan:
    """Hold everything that the emitter, the reference and the blob must agree on."""

    name: str
    network: Network
    dtype: str
    obs: ObsSpec
    action: ActionSpec
    order: npt.NDArray[np.int64]
    fields: tuple[Field, ...]
    cached: bool
    proofs: dict[str, Any] = field(default_factory=dict)
    integer: Any = None

    @property
    def payload(self) -> bytes:
        """Return the bytes of the weights struct."""
        return b"".join(
            np.ascontiguousarray(f.values).astype(f.values.dtype.newbyteorder("<")).tobytes()
            for f in self.fields
        )

    @property
    def layout_id(self) -> int:
        """Return a number that two exports share only if one can use the other's weights blob."""
        kinds = [repr(getattr(layer, "activation", Activation())) for layer in self.network.layers]
        text = f"{self.dtype} {self.network.dims} {kinds} {self.obs!r} " + " ".join(
            f"{f.name}:{f.values.dtype.str}:{f.values.size}" for f in self.fields
        )
        return zlib.crc32(text.encode())


def _float_fields(network: Network, order: npt.NDArray[np.int64]) -> list[Field]:
    found: list[Field] = []
    for i, layer in enumerate(network.layers):
        if isinstance(layer, Dense):
            weight = layer.weight[:, order] if i == 0 else layer.weight
            found += pack_dense(str(i), weight, layer.bias)
        elif isinstance(layer, Gru):
            h = layer.n_out
            found += pack_dense(f"{i}x", layer.w, layer.wb)
            found += pack_dense(f"{i}g", layer.r[: 2 * h], layer.rb[: 2 * h])
            found += pack_dense(f"{i}n", layer.r[2 * h :], layer.rb[2 * h :])
        else:
            found += [Field(f"s{i}", layer.scale), Field(f"o{i}", layer.offset)]
    return found


def make_plan(
    name: str,
    network: Network,
    *,
    dtype: str = "f32",
    obs: ObsSpec | None = None,
    action: ActionSpec | None = None,
    cached: bool | None = None,
) -> Plan:
    """Return the plan of an export; raise `ExportError` where the parts do not fit together.

    cached: keep partial sums over the action history between calls; by default wherever that saves work.
    """
    if not name.isidentifier() or not name.isascii() or len(name) > 32:
        raise ExportError(
            f"'{name}' is no C identifier of at most 32 characters", remedy="choose another --name"
        )
    if dtype not in DTYPES:
        raise ExportError(f"the data type '{dtype}' is unknown", remedy=f"choose one of: {', '.join(DTYPES)}")
    obs = obs or ObsSpec(network.n_in)
    if action is None:
        last = network.layers[-1]
        bounded = isinstance(last, Gru) or (isinstance(last, Dense | Affine) and last.activation.bounded)
        action = ActionSpec() if bounded else ActionSpec(low=-1e9, high=1e9)
    action.bounds(network.n_out)
    order = column_order(network, obs)
    if obs.history is not None:
        if not isinstance(network.layers[0], Dense):
            raise ExportError("an action history needs a dense first layer")
        if obs.history[1] != network.n_out:
            raise ExportError(
                f"history entries have {obs.history[1]} values but the policy has {network.n_out} actions"
            )
    useful = obs.history is not None and obs.period > 1 and network.dims[1] % 8 == 0
    if cached and not useful:
        raise ExportError(
            "cached history needs a history, a period above 1 and a first layer of a multiple of 8 outputs"
        )
    keep = useful if cached is None else cached
    proofs: dict[str, Any] = {}
    integer = None
    if dtype == "f32":
        found = _float_fields(network, order)
    else:
        integer = quantise(network, dtype, obs, order)
        found, proofs = list(integer.fields), integer.proofs
    return Plan(name, network, dtype, obs, action, order, tuple(found), keep, proofs, integer)
