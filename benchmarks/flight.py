"""The flight simulator and the paper's trainer: steps per second, training wall clock, one actor forward.

    python benchmarks/flight.py --json flight.json            (rows S1 to S6, 1 and 2 threads, from Python, actor)
    python benchmarks/flight.py --td3 --seeds 0 --threads 2   (300,000 steps per seed with the learning curve)

Rows S1 to S6 are those of rl_tools' own headers (one step is: RK4 of 13 states; of 17 with disturbance; clip, clamp and
history; reward, end, one noisy observation, resets; privileged and second observation; batch 1 with the policy). Rows of
one kind take turns; best and median of the rounds are given. PyPI `l2f` is timed beside them where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
import tree  # noqa: E402

tree.use()

from flocklet.kernels.actor_critic import actor_program  # noqa: E402
from flocklet.kernels.compile.executable import Executable  # noqa: E402
from flocklet.kernels.program import Program  # noqa: E402
from flocklet.models.flight.judge.evaluate import hover  # noqa: E402
from flocklet.models.flight.sim.compiled import Layout, flight_program, rk4_program, turn_program  # noqa: E402
from flocklet.models.flight.sim.dynamics import CRAZYFLIE  # noqa: E402
from flocklet.models.flight.sim.environment import reset  # noqa: E402
from flocklet.models.flight.sim.simulator import Simulator  # noqa: E402
from flocklet.models.flight.train.td3 import Recipe, Td3  # noqa: E402
from flocklet.models.flight.train.td3_program import ACTOR  # noqa: E402

HOVER_RPM = 14476.0
# M steps/s of rl_tools' headers on 2 x86-64 cores, 1 thread; actor forward in ns; training in s (read or measured before)
REFERENCE = {"S1": 6.2, "S2": 5.2, "S3": 2.35, "S4": 1.3, "S5": 0.93, "S6": 0.58}
CURVE = (50_000, 100_000, 150_000, 200_000, 250_000, 300_001)
Job = tuple[str, int, Callable[[], object]]  # row, steps per call, call


def filled(run: Executable, states: int, held: int, n: int) -> Executable:
    """Return the program with `n` vehicles that start as in the task and hover."""
    at, start = Layout.of(n), reset(np.random.default_rng(0), n, CRAZYFLIE)
    run.buffers["body"].reshape(states, at.stride)[:, :n] = start.body[:, :states].T
    run.buffers["held"].reshape(held, at.stride)[:, :n] = HOVER_RPM if held == 4 else 0.0
    run.buffers["held"].reshape(held, at.stride)[:4, :n] = HOVER_RPM
    if held == 10:
        run.buffers["held"].reshape(held, at.stride)[4:7, :n] = start.force.T
        run.buffers["held"].reshape(held, at.stride)[7:, :n] = start.torque.T
    return run


def rigid(n: int, steps: int, turns: int) -> Job:
    run = filled(rk4_program(n, steps).compile(), 13, 4, n)
    return "S1", n * steps * turns, partial(run.run, 0, turns)


def whole(n: int, steps: int, turns: int) -> Job:
    run = filled(flight_program(n, steps).compile(), 17, 10, n)
    return "S2", n * steps * turns, partial(run.run, 0, turns)


def stepped(n: int, turns: int) -> Job:
    """S3: no observation, no reset; one action per turn on the time line."""
    run = turn_program(n, parts="advance", is_observed=False).compile()
    at = Layout.of(n)
    line = 4 * at.stride
    log = np.zeros(line * (33 + turns) + 16, np.float32)
    log[:] = 0.334
    run.bind("log", log)
    start = reset(np.random.default_rng(0), n, CRAZYFLIE)
    run.buffers["body"].reshape(17, at.stride)[:, :n] = start.body.T
    run.admit(0, turns)
    return "S3", n * turns, partial(run.run, 0, turns)


def observed(n: int, turns: int, row: str, first: int = 0) -> Job:
    """S4 and S5: random actions, so that episodes end; S4 leaves the privileged and the second observation out."""
    sim = Simulator(n, np.random.default_rng(0), capacity=turns, first_row=first, is_lean=row == "S4")
    sim.plan(turns)[:] = np.random.default_rng(1).uniform(-1, 1, (turns, 4, n))

    def call() -> None:
        sim.turn(turns)

    return row, n * turns, call


def alone(turns: int) -> Job:
    """S6: one vehicle, sense, actor, step, reward, sense, record, reset: the collection of the TD3 trainer."""
    trainer = Td3(np.random.default_rng(0), recipe=Recipe(critic_warm_up=10**9))
    trainer.advance(10)
    return "S6", turns, partial(trainer.collect.run, 0, turns)


def from_python(n: int, threads: int, is_lean: bool, turns: int = 50) -> Job:
    """One Python call per turn with new actions, observation read, `threads` threads with their rows each."""
    share = n // threads
    rng, more = np.random.default_rng, {"is_lean": is_lean}
    sims = [Simulator(share, rng(0), first_row=i * share, **more) for i in range(threads)]
    actions = np.random.default_rng(1).uniform(-1, 1, (turns, 4, share)).astype(np.float32)
    pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def fly(sim: Simulator) -> None:
        for t in range(turns):
            sim.plan(1)[0] = actions[t]
            sim.turn()

    def call() -> None:
        if pool is None:
            fly(sims[0])
        else:
            list(pool.map(fly, sims))

    what = "observation" if is_lean else "both observations"
    return f"Python, n={n}, step + {what}", n * turns, call


def shared(make: Callable[[int], Job], threads: int) -> Job:
    """Run `threads` copies at once, each with its own memory."""
    if threads == 1:
        return make(0)
    jobs = [make(i) for i in range(threads)]
    pool = ThreadPoolExecutor(threads)
    return jobs[0][0], jobs[0][1] * threads, lambda: list(pool.map(lambda job: job[2](), jobs))


def l2f_ways(n: int) -> tuple[list[Job], str]:
    """Return PyPI l2f's step + observe at `n`, or why there is none."""
    if importlib.util.find_spec("l2f") is None:
        return [], "not installed (a source archive; over 8 CPU-minutes to build)"
    import l2f  # type: ignore[import-not-found]

    v = getattr(l2f.interface, f"vector{n}", None) or getattr(l2f, f"vector{n}")
    device, rng, environment = l2f.Device(), v.VectorRng(), v.VectorEnvironment()
    parameters, state, after = v.VectorParameters(), v.VectorState(), v.VectorState()
    v.initialize_rng(device, rng, 0), v.initialize_environment(device, environment)
    v.initial_parameters(device, environment, parameters)
    v.sample_initial_state(device, environment, parameters, state, rng)
    action, seen = np.zeros((n, 4), np.float32), np.zeros((n, 82), np.float32)

    def call() -> None:
        for _ in range(50):
            v.step(device, environment, parameters, state, action, after, rng)
            state.assign(after)
            v.observe(device, environment, parameters, state, seen, rng)

    return [(f"l2f, n={n}, step + observe", 50 * n, call)], ""


def actor_forward() -> Job:
    program: Program = actor_program(ACTOR)
    run = program.compile()
    run.buffers["params"][:] = ACTOR.init(np.random.default_rng(0))
    run.buffers["x"][:] = 0.1
    return "actor forward, batch 1, called from C", 2000, partial(run.run, 0, 2000)


def measure(jobs: list[tuple[Job, int]], rounds: int) -> list[dict[str, Any]]:
    """Let all jobs take turns; return best and median per row."""
    times: list[list[float]] = [[] for _ in jobs]
    for _ in range(rounds + 1):
        for samples, ((_, _, call), _) in zip(times, jobs, strict=True):
            start = time.perf_counter()
            call()
            samples.append(time.perf_counter() - start)
    rows = []
    for samples, ((row, steps, _), threads) in zip(times, jobs, strict=True):
        kept = samples[1:]
        best, middle = steps / min(kept) / 1e6, steps / statistics.median(kept) / 1e6
        peer = REFERENCE.get(row)
        entry: dict[str, Any] = {"row": row, "threads": threads, "best": best, "median": middle}
        entry["reference"] = peer
        if row.startswith("actor"):
            entry["ns"] = 1e3 / best
            print(
                f"{row:<44} {1e3 / best:8.0f} ns best, {1e3 / middle:.0f} median (755 OpenBLAS, 2,800 rl_tools)"
            )
        else:
            beside = f"rl_tools {peer} ({middle / peer / threads:.0f}x per core)" if peer else ""
            print(f"{row:<44} {threads} thread(s) {middle:8.2f} M steps/s (best {best:.2f})  {beside}")
        rows.append(entry)
    return rows


def simulate(rounds: int, only: str) -> list[dict[str, Any]]:
    makers: list[tuple[str, Callable[[], tuple[Job, int]]]] = []
    for k in (1, 2):
        makers += [
            ("S1", lambda k=k: (shared(lambda _: rigid(1024, 16, 16), k), k)),
            ("S2", lambda k=k: (shared(lambda _: whole(1024, 16, 16), k), k)),
            ("S3", lambda k=k: (shared(lambda _: stepped(512, 64), k), k)),
            ("S4", lambda k=k: (shared(lambda i: observed(512, 64, "S4", i * 512), k), k)),
            ("S5", lambda k=k: (shared(lambda i: observed(512, 64, "S5", i * 512), k), k)),
            ("python", lambda k=k: (from_python(1024, k, True), k)),
            ("python", lambda k=k: (from_python(1024, k, False), k)),
        ]
    makers += [("S6", lambda: (alone(20_000), 1)), ("actor", lambda: (actor_forward(), 1))]
    chosen = [make() for name, make in makers if not only or only in name]
    peers, why = l2f_ways(1024) if not only else ([], "")
    rows = measure([*chosen, *[(job, 1) for job in peers]], rounds)
    if why:
        print(f"PyPI l2f: {why}")
        rows.append({"row": "l2f", "note": why})
    return rows


def train(seed: int, threads: int, until: int) -> dict[str, Any]:
    """Train one seed; time the training only, evaluate 100 episodes at each point of the curve, 1,000 at the end."""
    began = time.perf_counter()
    trainer = Td3(np.random.default_rng(seed), threads=threads)
    ready_s, wall_s, cpu_s = time.perf_counter() - began, 0.0, 0.0
    curve: dict[str, float] = {}
    for point in [p for p in CURVE if p <= until]:
        wall, cpu = time.perf_counter(), time.process_time()
        trainer.advance(point)
        wall_s += time.perf_counter() - wall
        cpu_s += time.process_time() - cpu
        found = hover(trainer.policy(), CRAZYFLIE, seeds=(0,), episodes=100).summary()
        curve[str(point)] = float(found["episode_length"] or 0.0)
        print(
            f"seed {seed}: {point:>6} steps, {wall_s:6.2f} s, mean episode {curve[str(point)]:.0f}",
            flush=True,
        )
    final = hover(trainer.policy(), CRAZYFLIE, seeds=(0, 1), episodes=200).summary()
    trainer.close()
    print(
        f"seed {seed}: {threads} thread(s), {wall_s:.1f} s wall, {cpu_s:.1f} s CPU, compiling {ready_s:.1f} s; {final}"
    )
    return {"seed": seed, "threads": threads, "wall_s": wall_s, "cpu_s": cpu_s, "ready_s": ready_s} | {
        "curve": curve,
        "final": final,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--td3", action="store_true", help="train by the paper's recipe instead")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--until", type=int, default=300_001, help="steps of the run")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="rows whose name contains this: S1 ... S6, python, actor")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    if args.td3:
        result: dict[str, Any] = {"td3": [train(seed, args.threads, args.until) for seed in args.seeds]}
        result["reference"] = {"wall_s": 39.7, "300001": "369-464, median 400"}
    else:
        result = {"simulator": simulate(args.rounds, args.only)}
        note = (
            "not installed"
            if importlib.util.find_spec("rltools") is None
            else "compiles at run time; not timed"
        )
        print(f"PyPI rltools: {note}")
        result["rltools"] = note
    if args.json:
        with open(args.json, "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
