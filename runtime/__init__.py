"""flocklet: learning on the device, among peers, with no server."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
