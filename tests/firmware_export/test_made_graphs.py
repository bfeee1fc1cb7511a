"""Graphs made around what readers get wrong: the same numbers as onnxruntime, or refused with a name; nothing between."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from flocklet.firmware_export.read import lowering
from kit.made_graphs import KINDS, judged


@pytest.mark.parametrize("kind", KINDS)
def test_every_graph_is_equal_or_refused(kind):
    rng = np.random.default_rng(sum(map(ord, kind)))
    found = Counter(judged(KINDS[kind](rng)) for _ in range(18))
    assert found["equal"] + found["refused"] >= 9, found


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS)
def test_200_graphs_of_each_kind(kind):
    rng = np.random.default_rng(1)
    found = Counter(judged(KINDS[kind](rng)) for _ in range(200))
    assert found["equal"] and found["refused"] and found["invalid"] < 150, found


def test_the_kit_sees_a_reader_that_ignores_the_order(monkeypatch):
    """The control: a reader that takes every moved element for unmoved is caught."""
    monkeypatch.setattr(lowering.np, "array_equal", lambda a, b: True)
    rng = np.random.default_rng(0)
    with pytest.raises(AssertionError, match="but onnxruntime"):
        for _ in range(40):
            judged(KINDS["transpose"](rng))
