"""flocklet: learning on the device, among peers, with no server.

What `__all__` lists is the public face: typed, documented in `docs/reference.md`, and stable as semantic versioning says.
Everything is loaded when it is first used, so `import flocklet` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flocklet.device.devices import DeviceRow
    from flocklet.device.results import (
        AddResult,
        ClickResult,
        Hit,
        ImportResult,
        PeerStatus,
        RateResult,
        Recommendation,
        Recommendations,
        Refusal,
        RemoveResult,
        SearchResults,
        SkippedFile,
        Status,
        TrustedPerson,
        TrustResult,
    )
    from flocklet.errors import (
        ConfigError,
        ExportError,
        FlockletError,
        IdentityError,
        LinkError,
        MissingExtra,
        PeerRefused,
        SchemaMismatch,
        StoreError,
        UsageError,
        VerificationError,
        WireError,
    )
    from flocklet.identity.flock import Flock
    from flocklet.identity.key import Identity
    from flocklet.models.base import Model
    from flocklet.models.check import check_model
    from flocklet.node.node import Node, NodeSettings
    from flocklet.swarm.sim.simulation import Simulation
    from flocklet.swarm.strategy import Strategy

__all__ = [
    "AddResult",
    "ClickResult",
    "ConfigError",
    "DeviceRow",
    "ExportError",
    "Flock",
    "FlockletError",
    "Hit",
    "Identity",
    "IdentityError",
    "ImportResult",
    "LinkError",
    "MissingExtra",
    "Model",
    "Node",
    "NodeSettings",
    "PeerRefused",
    "PeerStatus",
    "RateResult",
    "Recommendation",
    "Recommendations",
    "Refusal",
    "RemoveResult",
    "SchemaMismatch",
    "SearchResults",
    "Simulation",
    "SkippedFile",
    "Status",
    "StoreError",
    "Strategy",
    "TrustResult",
    "TrustedPerson",
    "UsageError",
    "VerificationError",
    "WireError",
    "__version__",
    "check_model",
]

__version__ = "0.1.0"

# where a name lives that is neither an error nor a result
_ROOMS = {
    "DeviceRow": "device.devices",
    "Flock": "identity.flock",
    "Identity": "identity.key",
    "Model": "models.base",
    "Node": "node.node",
    "NodeSettings": "node.node",
    "Simulation": "swarm.sim.simulation",
    "Strategy": "swarm.strategy",
    "check_model": "models.check",
}


def __getattr__(name: str) -> Any:
    """Load a name of the face when somebody wants it."""
    if name not in __all__:
        raise AttributeError(f"module 'flocklet' has no attribute {name!r}")
    is_error = name == "MissingExtra" or name.endswith(("Error", "Refused", "Mismatch"))
    room = _ROOMS.get(name, "errors" if is_error else "device.results")
    return getattr(importlib.import_module(f"flocklet.{room}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return list(__all__)
