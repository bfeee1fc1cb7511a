"""The tasks of `flocklet learn` by name: how to make each, what a good score is and what it costs.

An environment of one's own is `gym:ID` (a registered Gymnasium environment) or `file.py:Class` (an `Environment`, or a
Gymnasium one). A file is run: it is the person's own code, as if they had started it with Python.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from flocklet.errors import ConfigError, FlockletError, UsageError
from flocklet.models.policy.environment import Environment, Spec

__all__ = ["TASKS", "Entry", "make_environment"]


@dataclass(frozen=True)
class Entry:
    """One task: its maker `module:Class`, one line about it, a good score, the cost, the usual method and rounds.

    `is_order_free` is false where `step` draws random numbers, so that the order of the worlds matters.
    """

    where: str
    about: str
    good: str
    cost: str
    method: str = "mdpo"
    rounds: int = 98
    is_order_free: bool = True

    def make(self) -> Environment:
        """Return a fresh environment."""
        module, _, name = self.where.partition(":")
        made: Environment = getattr(importlib.import_module(f"flocklet.models.{module}"), name)()
        return made


TASKS: dict[str, Entry] = {
    "cartpole": Entry(
        "worlds.cartpole:CartPole", "balance a pole on a cart", "475 of 500", "3 CPU-s for 100k steps"
    ),
    "pendulum": Entry(
        "worlds.pendulum:Pendulum",
        "swing a pendulum up and hold it",
        "-230",
        "10 CPU-s for 6k steps",
        "soft",
        240,
    ),
    "keyroom": Entry(
        "worlds.keyroom:KeyRoom", "bring a key to a door; has captions", ".8 of 1", "3 CPU-s", "trees", 60
    ),
    "lock": Entry(
        "worlds.lock:Lock",
        "open a combination lock of 20 steps",
        ".9 of 1",
        "2 CPU-s with a log",
        "race",
        60,
        False,
    ),
    "dispatch": Entry(
        "worlds.dispatch:Dispatch",
        "send jobs of six codes to four places",
        "17.5 of 20",
        "4 CPU-s",
        "trees",
        59,
    ),
}
"""Name -> entry; a line here is all that a new task needs."""


def make_environment(name: str) -> tuple[Environment, Entry | None]:
    """Return the environment of a task's name, `gym:ID` or `file.py:Class`, and its entry if it is one of ours.

    Raise UsageError or ConfigError, one line, for what is none.
    """
    if name in TASKS:
        return TASKS[name].make(), TASKS[name]
    if name.startswith("gym:"):
        from flocklet.models.policy.gym import from_gymnasium

        return from_gymnasium(name[4:]), None
    path, colon, kind = name.rpartition(":")
    if colon and path.endswith(".py"):
        return _from_file(Path(path), kind), None
    near = get_close_matches(name, TASKS, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UsageError(
        f"there is no task '{name}'",
        remedy=f"{hint}'flocklet learn tasks' lists them; your own is gym:ID or file.py:Class",
    )


def _from_file(path: Path, kind: str) -> Environment:
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # noqa: S101  (a .py file always has both)
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
        found = getattr(module, kind, None)
        if not inspect.isclass(found):
            classes = [name for name, value in vars(module).items() if inspect.isclass(value)]
            raise UsageError(f"{path} has no class '{kind}'", remedy=f"it has {', '.join(classes) or 'none'}")
        return _environment(found, f"{path.name}:{kind}")
    except FlockletError:
        raise
    except Exception as error:  # whatever the person's file raises is one line that names the file
        raise ConfigError(
            f"{path} failed: {type(error).__name__}: {error}", remedy="run it with Python to see where"
        ) from error


def _environment(kind: Callable[[], Any], name: str) -> Environment:
    made: Any = kind()
    if isinstance(getattr(made, "spec", None), Spec):
        environment: Environment = made
        return environment
    if hasattr(made, "observation_space") and hasattr(made, "action_space"):
        from flocklet.models.policy.gym import FromGymnasium

        return FromGymnasium(kind, name)
    raise ConfigError(
        f"{name} is neither an Environment (it has no spec) nor a Gymnasium environment",
        remedy="docs/policies.md shows both in ten lines",
    )
