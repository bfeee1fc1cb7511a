"""`python -m flocklet` and the `flocklet` command."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> int:
    """Run the command line; return the exit code."""
    return 0


if __name__ == "__main__":
    sys.exit(main())
