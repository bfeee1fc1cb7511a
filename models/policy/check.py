"""The conformance suites of environments and policies: one message per broken rule, beginning with the rule's name."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.models.policy.environment import Environment, Spec, Step, heads_of, state_arrays, take_rows
from flocklet.models.policy.policy import Actor, act
from flocklet.onnx_io.model import OnnxSession

__all__ = ["check_environment", "check_policy"]

_WORLDS, _STEPS = 6, 40


def check_environment(make: Callable[[], Environment], *, draws_order: bool = True) -> None:
    """Raise AssertionError, naming the rule, unless environments of `make` keep the contract.

    `draws_order=False` leaves out the rule that permuting the worlds permutes the results: an environment whose `step`
    draws random numbers per world cannot keep it.
    """
    env = make()
    spec = env.spec
    first, second = (_play(make(), seed=3) for _ in range(2))
    _require(all(a == b for a, b in zip(first, second, strict=True)), "same seed: two runs differ")
    state = env.reset(np.random.default_rng(0), _WORLDS)
    _require(is_dataclass(state), "state: it is no dataclass of arrays")
    _check_state(state)
    rng = np.random.default_rng(1)
    for _ in range(_STEPS):
        seen = env.observe(state, rng)
        wanted = (_WORLDS, spec.agents, spec.seen)
        _require(seen.shape == wanted, f"shapes: an observation is {seen.shape}, not {wanted}")
        _require(seen.dtype == np.float32, f"shapes: observations are {seen.dtype}, not float32")
        _require(bool(np.isfinite(seen).all()), "finite: an observation is not a finite number")
        if spec.privileged:
            wide = env.observe_privileged(state)
            _require(
                wide.shape[0] == _WORLDS and wide.shape[-1] == spec.privileged,
                f"shapes: what the critic sees is {wide.shape}, not (M, {spec.privileged})",
            )
        allowed = env.allowed(state)
        if allowed is not None:
            _require(
                allowed.shape == (_WORLDS, spec.agents, spec.actions) and bool(allowed.any(axis=-1).all()),
                "allowed: every agent has at least one legal action among (M, N, A)",
            )
        action = _draw(spec, rng, _WORLDS, allowed)
        before, kept = _bytes(state), action.copy()
        turn = env.step(state, action, np.random.default_rng(5))
        _require(
            _bytes(state) == before and np.array_equal(kept, action),
            "pure: step changed its state or its action",
        )
        _check_step(env, turn)
        state = turn.state
    _check_finished(env, state, rng)
    _check_replace(env)
    if draws_order:
        _check_order(env)
    _check_levels(make)
    _check_hostile(env)


def check_policy(actor: Actor, seed: int = 0) -> None:
    """Raise AssertionError, naming the rule, unless a policy keeps the contract of `Actor`."""
    spec, rng = actor.spec, np.random.default_rng(seed)
    seen = rng.standard_normal((5, spec.agents, spec.seen)).astype(np.float32)
    flat = seen.reshape(-1, spec.seen)
    one, two = actor.dist(flat), actor.dist(flat)
    _require(np.array_equal(one.params, two.params), "deterministic: two calls differ")
    _require(bool(np.isfinite(one.params).all()), "finite: an output is not a finite number")
    a, b = (act(actor, seen, np.random.default_rng(9))[0] for _ in range(2))
    _require(np.array_equal(a, b), "same seed: two generators of one seed draw other actions")
    tensors = actor.tensors()
    actor.load({name: np.zeros_like(value) for name, value in tensors.items()})
    actor.load(tensors)
    _require(np.array_equal(actor.dist(flat).params, one.params), "tensors: they do not come back")
    if spec.actions is not None:
        allowed = np.zeros((len(flat), spec.actions), bool)
        allowed[np.arange(len(flat)), np.arange(len(flat)) % spec.actions] = True
        forced, _ = act(actor, seen, rng, allowed=allowed.reshape(*seen.shape[:2], -1))
        _require(
            np.array_equal(forced.reshape(-1), np.arange(len(flat)) % spec.actions),
            "allowed: an illegal action was drawn",
        )
    session = OnnxSession(actor.to_onnx())
    (out,) = session.run({next(iter(session.inputs)): flat}).values()
    if spec.actions is not None:
        wanted = one.params - one.params.mean(axis=1, keepdims=True)
        out = out - out.mean(axis=1, keepdims=True)
    else:
        wanted = one.mode()
    _require(float(np.abs(out - wanted).max()) <= 1e-5, "onnx: onnxruntime gives other numbers")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def _bytes(state: Any) -> bytes:
    return b"".join(value.tobytes() for value in state_arrays(state).values())


def _draw(spec: Spec, rng: np.random.Generator, worlds: int, allowed: Any = None) -> NDArray[Any]:
    if spec.actions is None:
        return np.asarray(rng.uniform(-1, 1, (worlds, spec.agents, spec.controls or 0)), np.float32)
    weight = np.ones((worlds, spec.agents, spec.actions)) if allowed is None else allowed.astype(float)
    return np.asarray((weight * (0.5 + rng.random(weight.shape))).argmax(axis=-1), np.int32)


def _play(env: Environment, seed: int) -> list[bytes]:
    rng = np.random.default_rng(seed)
    state, out = env.reset(rng, 3), []
    for _ in range(12):
        seen = env.observe(state, rng)
        turn = env.step(state, _draw(env.spec, rng, 3, env.allowed(state)), rng)
        out += [seen.tobytes(), np.asarray(turn.reward).tobytes(), _bytes(turn.state)]
        state = turn.state
    return out


def _check_state(state: Any) -> None:
    arrays = state_arrays(state)
    _require(
        all(len(value) == _WORLDS for value in arrays.values()), "state: an array's leading axis is not M"
    )
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # the stub takes an array for allow_pickle
    buffer.seek(0)
    with np.load(buffer, allow_pickle=False) as back:
        _require(
            all(np.array_equal(back[name], value) for name, value in arrays.items()),
            "state: it does not survive numpy.savez without pickle",
        )


def _check_step(env: Environment, turn: Step) -> None:
    for name in ("terminated", "truncated"):
        value = getattr(turn, name)
        _require(value.shape == (_WORLDS,) and value.dtype == bool, f"shapes: {name} is no bool array (M,)")
    _require(not (turn.terminated & turn.truncated).any(), "ends: terminated and truncated at once")
    try:
        heads_of(turn.reward, env.spec)
    except ValueError as error:
        raise AssertionError(f"reward: {error}") from error


def _check_finished(env: Environment, state: Any, rng: np.random.Generator) -> None:
    """Go far past the time limit: finished rows must go on harmlessly, and `step` must not reset them."""
    spec = env.spec
    ended = np.zeros(_WORLDS, bool)
    for _ in range(min(spec.steps, 600) + 5):
        turn = env.step(state, _draw(spec, rng, _WORLDS, env.allowed(state)), rng)
        ended |= turn.terminated | turn.truncated
        state = turn.state
        for name, value in state_arrays(state).items():
            _require(
                value.dtype.kind != "f" or bool(np.isfinite(value).all()),
                f"finished: {name} of a finished row is not a finite number",
            )
    _require(bool(ended.all()) or spec.steps > 600, f"ends: no end within the {spec.steps} steps of the spec")


def _check_replace(env: Environment) -> None:
    rng = np.random.default_rng(7)
    old, fresh = env.reset(rng, _WORLDS), env.reset(rng, _WORLDS)
    for _ in range(3):
        old = env.step(old, _draw(env.spec, rng, _WORLDS, env.allowed(old)), rng).state
    mask = np.arange(_WORLDS) % 2 == 0
    mixed = state_arrays(env.replace(old, mask, fresh))
    for name, value in state_arrays(old).items():
        new = state_arrays(fresh)[name]
        _require(
            np.array_equal(mixed[name][mask], new[mask]) and np.array_equal(mixed[name][~mask], value[~mask]),
            f"replace: {name} is not taken row by row",
        )


def _check_order(env: Environment) -> None:
    rng = np.random.default_rng(11)
    state = env.reset(rng, _WORLDS)
    action = _draw(env.spec, rng, _WORLDS, env.allowed(state))
    order = rng.permutation(_WORLDS)
    plain = env.step(state, action, np.random.default_rng(1))
    moved = env.step(take_rows(state, order), action[order], np.random.default_rng(1))
    _require(
        _bytes(take_rows(plain.state, order)) == _bytes(moved.state)
        and np.array_equal(np.asarray(plain.reward)[order], moved.reward),
        "order: permuting the worlds changes the results",
    )


def _check_levels(make: Callable[[], Environment]) -> None:
    env = make()
    names = list(env.spec.level)
    if not names:
        return
    middle = np.array([sum(env.spec.level[name]) / 2 for name in names])
    ends = []
    for factor in (1.0, 1.5):
        levels = np.tile(middle * factor + (factor - 1.0), (64, 1)).astype(np.float32)
        rng = np.random.default_rng(13)
        state = env.reset(rng, len(levels), levels)
        trace = []
        for _ in range(10):
            turn = env.step(state, _draw(env.spec, rng, len(levels), env.allowed(state)), rng)
            state = turn.state
            trace.append(
                env.observe(state, np.random.default_rng(0)).tobytes() + np.asarray(turn.reward).tobytes()
            )
        _require(np.array_equal(state.level, levels), "levels: the row does not keep its level")
        ends.append(b"".join(trace))
    _require(ends[0] != ends[1], "levels: two levels give the same trajectory")


def _check_hostile(env: Environment) -> None:
    spec = env.spec
    state = env.reset(np.random.default_rng(0), _WORLDS)
    good = _draw(spec, np.random.default_rng(0), _WORLDS, env.allowed(state))
    hostile: list[NDArray[Any]] = [good[:, :0], np.zeros((1, 1, 1, 1), good.dtype)]
    if spec.actions is not None:
        hostile += [np.full_like(good, spec.actions), np.full_like(good, -1), good.astype(np.float32)]
    else:
        hostile += [np.full_like(good, np.nan)]
        huge = env.step(state, np.full_like(good, 1e30), np.random.default_rng(0))
        edge = env.step(state, np.ones_like(good), np.random.default_rng(0))
        _require(_bytes(huge.state) == _bytes(edge.state), "hostile: actions beyond 1 are not clipped")
    for action in hostile:
        try:
            env.step(state, action, np.random.default_rng(0))
        except ValueError:
            continue
        raise AssertionError(f"hostile: an action {action.dtype} {action.shape} was taken")
