"""From a trained policy to proven C for microcontrollers.

`export_policy` writes a policy as C99 with its packages, `verify` proves it on this machine and on
emulated cores. See docs/microcontrollers.md. Nothing heavy is imported here.
"""

from __future__ import annotations

from typing import Any

__all__ = ["ActionSpec", "Artifact", "ObsSpec", "Report", "export_policy", "load_artifact", "read", "verify"]

_HOME = {
    "ActionSpec": "read.semantics",
    "ObsSpec": "read.semantics",
    "Artifact": "export",
    "export_policy": "export",
    "load_artifact": "export",
    "read": "read.onnx_reader",
    "Report": "verify.proof",
    "verify": "verify.proof",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'flocklet.firmware_export' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"flocklet.firmware_export.{_HOME[name]}"), name)
