"""Let a benchmark run straight from a checkout: `import tree; tree.use()` makes `flocklet` importable if it is not."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

__all__ = ["use"]

FOLDERS = {"flocklet": "runtime", "flocklet.models": "models", "flocklet.firmware_export": "firmware_export"}


def use() -> None:
    """Map the folders of this checkout to the package, unless it is installed."""
    if importlib.util.find_spec("flocklet") is not None:
        return
    root = Path(__file__).resolve().parent.parent
    for name, folder in FOLDERS.items():
        spec = importlib.util.spec_from_file_location(
            name, root / folder / "__init__.py", submodule_search_locations=[str(root / folder)]
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
