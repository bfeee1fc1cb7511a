"""The verb `learn` and its sub-verbs."""

from __future__ import annotations

from typing import Any

from flocklet.cli import learn_eval, learn_explain, learn_prefer, learn_tasks, learn_train
from flocklet.cli.parser import add_sub_verbs

__all__ = ["add_parser"]


def add_parser(verbs: Any) -> None:
    """Add the verb; every sub-verb adds itself."""
    learn = verbs.add_parser(
        "learn",
        help="learn to act: train and judge policies",
        description="Train policies in simulated tasks, or in an environment of your own.",
    )
    below = add_sub_verbs(verbs, learn)
    learn_tasks.add_parser(below)
    learn_train.add_parser(below)
    learn_eval.add_parser(below)
    learn_explain.add_parser(below)
    learn_prefer.add_parser(below)
