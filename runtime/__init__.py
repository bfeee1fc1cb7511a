"""flocklet: learning on the device, among peers, with no server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flocklet.node.node import Node, NodeSettings

__all__ = ["Node", "NodeSettings", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load the peer only when somebody wants one: `import flocklet` stays light."""
    if name in ("Node", "NodeSettings"):
        from flocklet.node import node

        return getattr(node, name)
    raise AttributeError(f"module 'flocklet' has no attribute {name!r}")
