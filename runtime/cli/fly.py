"""The verb `fly` and its sub-verbs."""

from __future__ import annotations

from typing import Any

from flocklet.cli import fly_adapt, fly_eval, fly_train
from flocklet.cli.parser import add_sub_verbs

__all__ = ["add_parser"]


def add_parser(verbs: Any) -> None:
    """Add the verb; every sub-verb adds itself."""
    fly = verbs.add_parser(
        "fly", help="train, adapt and judge policies that fly", description="Quadrotor policies."
    )
    below = add_sub_verbs(verbs, fly)
    fly_train.add_parser(below)
    fly_adapt.add_parser(below)
    fly_eval.add_parser(below)
