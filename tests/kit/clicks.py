"""Teach a model many clicks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flocklet.models.base import Model

__all__ = ["learn_all"]


def learn_all(model: Model[Any, Any], events: Iterable[Any]) -> None:
    """Let the model learn one event after the other."""
    for event in events:
        model.learn(event)
