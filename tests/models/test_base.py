"""Versions name parameters exactly; deltas lead from one version to the next and nowhere else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flocklet.errors import SchemaMismatch, WireError
from flocklet.models.base import (
    Delta,
    Parameters,
    add,
    apply_delta,
    difference,
    scale,
    schema_hash,
    version_id,
)

finite = st.floats(-(2.0**90), 2.0**90, width=32)
tensors = hnp.arrays(np.float32, (3, 2), elements=finite)


def params(**arrays: object) -> Parameters:
    return {name: np.array(value, dtype=np.float32) for name, value in arrays.items()}


def test_a_version_depends_on_values_names_and_shapes_but_not_on_insertion_order() -> None:
    first = params(a=[1, 2], b=[3])
    assert version_id(first) == version_id(params(b=[3], a=[1, 2]))
    assert len(version_id(first)) == len(schema_hash(first)) == 16
    others = [
        params(a=[1, 2], b=[4]),
        params(a=[1, 2], c=[3]),
        params(a=[[1, 2]], b=[3]),
        params(a=[1], b=[2, 3]),
        params(a=[-0.0]),
        params(a=[0.0]),
    ]
    assert len({version_id(p) for p in [first, *others]}) == len(others) + 1


def test_a_version_is_the_same_for_any_memory_layout() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert version_id({"a": array}) == version_id({"a": np.asfortranarray(array)})
    assert version_id({"a": array}) == version_id({"a": array.astype(">f4")})


def test_the_schema_ignores_values() -> None:
    assert schema_hash(params(a=[1, 2])) == schema_hash(params(a=[3, 4]))
    assert schema_hash(params(a=[1, 2])) != schema_hash(params(a=[1, 2, 3]))


@given(tensors, tensors)
def test_a_delta_leads_where_it_says(old: np.ndarray, new: np.ndarray) -> None:
    delta = difference({"w": new}, {"w": old})
    result = apply_delta({"w": old}, delta)
    assert version_id(result) == delta.version
    np.testing.assert_allclose(result["w"], new, rtol=1e-5, atol=float(np.abs(old).max()) * 1e-6)


def test_applying_leaves_the_parameters_alone() -> None:
    old = params(w=[1, 2])
    apply_delta(old, difference(params(w=[2, 3]), old))
    assert old["w"].tolist() == [1, 2]


def test_a_delta_from_another_base_is_refused() -> None:
    delta = difference(params(w=[2]), params(w=[1]))
    with pytest.raises(SchemaMismatch, match="starts from version"):
        apply_delta(params(w=[5]), delta)


def test_a_delta_that_lies_about_its_version_is_refused() -> None:
    delta = difference(params(w=[2]), params(w=[1]))
    with pytest.raises(WireError, match="does not lead"):
        apply_delta(params(w=[1]), Delta(delta.base, bytes(16), delta.values))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    old = params(w=[1, 2])
    with pytest.raises(WireError, match="not finite"):
        apply_delta(old, Delta(version_id(old), b"", params(w=[0, bad])))
    with pytest.raises(WireError, match="not finite"):
        difference(params(w=[0, bad]), old)


def test_an_overflow_is_refused() -> None:
    old = params(w=[3e38])
    with pytest.raises(WireError, match="not finite"):
        apply_delta(old, Delta(version_id(old), b"", params(w=[3e38])))


def test_other_tensors_are_refused() -> None:
    old = params(w=[1, 2])
    for odd in (params(v=[1, 2]), params(w=[1]), params(w=[1, 2], v=[1])):
        with pytest.raises(SchemaMismatch):
            apply_delta(old, Delta(version_id(old), b"", odd))
    with pytest.raises(SchemaMismatch, match="float32"):
        apply_delta(old, Delta(version_id(old), b"", {"w": np.zeros(2)}))  # type: ignore[dict-item]


def test_deltas_scale_and_add_like_vectors() -> None:
    old = params(w=[1, 1])
    half = scale(difference(params(w=[3, 1]), old), 0.5)
    both = add(half, difference(params(w=[1, 2]), old))
    assert apply_delta(old, both)["w"].tolist() == [2, 2]
    with pytest.raises(SchemaMismatch, match="different bases"):
        add(half, difference(params(w=[1, 2]), params(w=[0, 0])))
