"""demo (being written)."""

__all__ = ["add_parser"]


def add_parser(verbs):
    """Add."""
    p = verbs.add_parser("demo")
    p.set_defaults(run=lambda a: 0)
