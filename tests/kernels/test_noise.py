"""Counted random numbers and data-dependent addresses: same bits everywhere, the right distribution."""

from __future__ import annotations

import numpy as np
import pytest

from flocklet.kernels.body.expr import trace
from flocklet.kernels.compile.library_cache import LibraryCache
from flocklet.kernels.gather import gather_map, gather_window
from flocklet.kernels.maps import Window, map_kernel, vector
from flocklet.kernels.noise import Draws, cosine_sine
from flocklet.kernels.program import Program, View
from kit.kernel_runs import native, program_of, twin64

N, DRAWS = 512, 12


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return LibraryCache(tmp_path_factory.mktemp("kernels"))


def draws_program() -> Program:
    def body(lane, keys):
        draws = Draws(lane[0], keys)
        return [*draws.normals(DRAWS), draws.uniform(), draws.uniform(-3.0, 5.0)]

    windows = [vector(), Window(planes=3, plane_stride=1, column_stride=0)]
    windows.append(Window("out", planes=DRAWS + 2, plane_stride=N))
    return program_of(map_kernel(trace(body, 1, 3), windows, 1, N))


def drawn(run, keys) -> np.ndarray:
    run.buffers["k0_0"][:] = np.arange(N)
    run.buffers["k0_1"][:] = keys
    run()
    return run.buffers["k0_2"].reshape(DRAWS + 2, N).copy()


def test_the_same_numbers_come_from_every_backend(cache):
    keys = (16777215.0, 3.0, 77.0)
    fast, exact = native(draws_program(), cache), twin64(draws_program())
    got, want = drawn(fast, keys), drawn(exact, keys)
    np.testing.assert_array_equal(got[DRAWS], want[DRAWS].astype(np.float32))
    np.testing.assert_allclose(got, want, atol=3e-6)
    np.testing.assert_array_equal(got, drawn(fast, keys))
    assert (
        np.abs(got - drawn(fast, (16777215.0, 3.0, 78.0))).mean() > 0.5
    )  # control: another key, other numbers


def test_draws_have_the_distribution_they_claim_and_do_not_know_each_other():
    exact = draws_program().interpret()
    many = np.stack([drawn(exact, (1.0, 2.0, float(k))) for k in range(60)], axis=1).astype(np.float64)
    normals, uniform, ranged = many[:DRAWS].reshape(DRAWS, -1), many[DRAWS].ravel(), many[DRAWS + 1].ravel()
    count = normals.size
    assert abs(normals.mean()) < 4 / np.sqrt(count)
    assert abs(normals.var() - 1) < 4 * np.sqrt(2 / count)
    assert abs((normals**4).mean() - 3) < 4 * np.sqrt(96 / count)
    for sigma, share in ((1, 0.317311), (2, 0.0455), (3, 0.0027)):
        assert abs((np.abs(normals) > sigma).mean() - share) < 4 * np.sqrt(share / count)
    for draw in (normals[0], normals[1]):  # Kolmogorov and Smirnov against the normal distribution
        ordered = np.sort(draw)
        from math import erf

        below = np.array([0.5 * (1 + erf(x / 2**0.5)) for x in ordered])
        steps = np.arange(1, len(ordered) + 1) / len(ordered)
        assert np.abs(below - steps).max() < 1.95 / np.sqrt(len(ordered))
    correlation = np.corrcoef(normals) - np.eye(DRAWS)
    assert np.abs(correlation).max() < 5 / np.sqrt(normals.shape[1])
    in_time = np.corrcoef(many[0])[0, 1:]  # the same draw of the same rows, one key later
    assert np.abs(in_time).max() < 5 / np.sqrt(N)
    counts = np.bincount((uniform * 64).astype(int), minlength=64)
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 63 + 5 * np.sqrt(2 * 63)
    assert ranged.min() >= -3 and ranged.max() < 5 and abs(ranged.mean() - 1) < 0.1


def test_cosine_and_sine_of_turns():
    turns = np.linspace(0, 1, 4097)
    cosine, sine = cosine_sine(turns)
    np.testing.assert_allclose(cosine, np.cos(2 * np.pi * turns), atol=1e-7)
    np.testing.assert_allclose(sine, np.sin(2 * np.pi * turns), atol=1e-7)


@pytest.mark.parametrize("later", [0, 1])
def test_a_window_of_the_time_line_forgets_what_is_older_than_the_episode(cache, later):
    turns, width, slots, records, rows = 40, 4, 8, 40, 6
    program = Program("window")
    for name, size in (("index", rows), ("line", (turns + slots) * width), ("records", records * 3)):
        program.buffer(name, size)
    program.buffer("out", rows * 35)
    kernel = gather_window(turns, width, slots, rows, 35, age=(records, 3, 2), later=later)
    program.call(kernel, "index", "line", "records", View("out", 2))
    rng = np.random.default_rng(0)
    line, record = rng.standard_normal((turns + slots, width)), np.zeros((records, 3))
    index, ages = np.array([0, 7, 12, 20, 39, 39]), np.array([0, 7, 3, 100, 8, 8])
    record[index, 2] = ages
    want = np.zeros((rows, slots, width))
    for r, (t, age) in enumerate(zip(index, ages, strict=True)):
        for j in range(slots):
            back = slots - later - j  # this slot holds the action of turn t - back
            if back <= age:
                want[r, j] = line[t - back + slots]
    for run in (native(program, cache), program.interpret()):
        for name, value in (("index", index), ("line", line), ("records", record)):
            run.buffers[name][:] = value.reshape(-1)
        run()
        got = run.buffers["out"].reshape(rows, 35)[:, 2:34].reshape(rows, slots, width)
        np.testing.assert_array_equal(got, want.astype(np.float32))


def test_records_are_picked_by_number(cache):
    records, width, rows = 50, 5, 9
    graph = trace(lambda a: [a[0] * 2.0, a[1] + a[0]], 2)
    target = Window("out", planes=2, plane_stride=1, column_stride=3)
    program = program_of(gather_map(graph, records, width, [4, 1], [target], rows))
    rng = np.random.default_rng(1)
    index, data = rng.integers(0, records, rows), rng.standard_normal((records, width)).astype(np.float32)
    for run in (native(program, cache), program.interpret()):
        run.buffers["k0_0"][:], run.buffers["k0_1"][:] = index, data.reshape(-1)
        run()
        got = np.append(run.buffers["k0_2"], [0.0])[: rows * 3].reshape(rows, 3)[:, :2]
        np.testing.assert_allclose(got[:, 0], data[index, 4] * 2, rtol=1e-6)
        np.testing.assert_allclose(got[:, 1], data[index, 1] + data[index, 4], rtol=1e-5, atol=1e-6)


def test_a_graph_of_another_arity_is_refused():
    with pytest.raises(ValueError, match="fields"):
        gather_map(trace(lambda a: [a[0]], 1), 4, 4, [0, 1], [Window("out")], 2)
