"""`python -m flocklet` and the `flocklet` command."""

from __future__ import annotations

import sys

from flocklet.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
