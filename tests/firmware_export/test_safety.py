"""What keeps a craft alive: guards, watchdog, self-test, re-entrancy, weights blobs.

And mutants that must be caught.
"""

from __future__ import annotations

import subprocess
import zlib

import numpy as np
import pytest

from flocklet.errors import ExportError
from flocklet.firmware_export.c.blob import blob_bytes, check_blob, reweighted
from flocklet.firmware_export.c.closed_loop import Controller
from flocklet.firmware_export.c.step import STATUS
from flocklet.firmware_export.c.vectors import drive
from flocklet.firmware_export.plan.plan import make_plan
from flocklet.firmware_export.read.network import seeded_actor
from flocklet.firmware_export.read.semantics import ActionSpec, ObsSpec
from flocklet.firmware_export.verify.expected import fuzz_records, step_records
from flocklet.firmware_export.verify.host import build_host
from kit.firmware import actor, actor_plan, needs_cc, small_plan, write_c

BIT = {key: value for key, (value, _) in STATUS.items()}


@needs_cc
@pytest.mark.parametrize("dtype", ["f32", "w16", "i16"])
def test_hostile_numbers_never_reach_the_motors(tmp_path, dtype):
    plan = actor_plan(dtype)
    program = build_host(plan, write_c(plan, tmp_path / "c"), tmp_path / "host")
    records, hostile = fuzz_records(plan, np.random.default_rng(0), 34_000)
    words, _ = program.run(records, is_step=True)
    action = np.ascontiguousarray(words[:, :4]).view(np.float32)
    assert hostile.sum() > 16_000
    assert np.isfinite(action).all() and (np.abs(action) <= 1).all()
    assert (words[hostile, 4] != 0).all()
    good_after_good = ~hostile[1:] & ~hostile[:-1]
    assert (words[1:, 4][good_after_good] & BIT["FAILSAFE"] == 0).all()


@needs_cc
def test_guards_and_watchdog_do_what_the_reference_does(tmp_path):
    rules = {
        "max_gap_us": 5000,
        "interval_us": 1000,
        "bad_limit": 2,
        "failsafe": -0.5,
        "low": -0.6,
        "high": 0.6,
    }
    plan = small_plan(**rules)
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(300, 5)).astype(np.float32)
    obs[5:9, 2] = np.nan
    obs[20, 0], obs[21, 1], obs[22, 2] = 1e30, 1e-42, -np.inf
    times = np.arange(1, 301) * 1000
    times[30:] += 7000
    times[40] -= 3000
    times[120:260] += np.arange(140) * 500
    times[260:] += 70_000
    wanted = drive(plan, obs, None, times.tolist())
    program = build_host(plan, write_c(plan, tmp_path / "c"), tmp_path / "host")
    words, _ = program.run(step_records(plan, obs, None, times.tolist()), is_step=True)
    np.testing.assert_array_equal(words[:, :-1], wanted.actions.view(np.uint32))
    np.testing.assert_array_equal(words[:, -1], wanted.status)
    status = wanted.status
    assert status[5] == BIT["NONFINITE"] and status[6] == BIT["NONFINITE"] | BIT["FAILSAFE"]
    np.testing.assert_array_equal(wanted.actions[5], wanted.actions[4])
    np.testing.assert_array_equal(wanted.actions[6], np.full(3, -0.5, np.float32))
    assert status[9] & (BIT["FAILSAFE"] | BIT["NONFINITE"]) == 0
    assert (
        status[20] & BIT["OBS_CLIPPED"] and status[21] & BIT["OBS_CLIPPED"] and status[22] & BIT["NONFINITE"]
    )
    assert status[30] & BIT["DEADLINE"] and status[30] & BIT["FAILSAFE"]
    assert status[40] & BIT["BAD_TIME"] and status[40] & BIT["FAILSAFE"]
    assert (status & BIT["BIAS"]).any() and (status & BIT["ACTION_CLIPPED"]).any()


def test_recovery_waits_for_a_reset_where_it_is_told_to():
    plan = small_plan(recovery="reset", bad_limit=1)
    controller = Controller(plan)
    good = np.ones(5, np.float32)
    controller.step(np.full(5, np.nan, np.float32))
    assert controller.step(good)[1] & BIT["FAILSAFE"]
    controller.reset(0.0)
    assert controller.step(good)[1] == 0


def compile_main(plan, where, main, *, loadable=False, flags=("-O1", "-fsanitize=address,undefined")):
    write_c(plan, where, loadable=loadable)
    (where / "main.c").write_text(
        f'#include "{plan.name}.h"\n#include <stdio.h>\n#include <string.h>\n{main}'
    )
    command = ["cc", "-std=c99", *flags, "-I.", "main.c", f"{plan.name}.c", "-o", "main"]
    subprocess.run(command, cwd=where, check=True, capture_output=True)
    return where / "main"


@needs_cc
def test_two_controllers_do_not_touch_each_other(tmp_path):
    plan = small_plan()
    obs = np.random.default_rng(1).normal(size=(40, 5)).astype("<f4")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "in.bin").write_bytes(obs.tobytes())
    main = """
int main(void) {
  static small_state_t a, b; float obs[5], act[3]; int i; FILE *f = fopen("in.bin", "rb");
  small_reset(&a, 0.0f); small_reset(&b, 0.0f);
  for (i = 0; fread(obs, 4, 5, f) == 5; i++) {
    small_step(i % 2 ? &a : &b, obs, act); fwrite(act, 4, 3, stdout);
  }
  return 0;
}
"""
    program = compile_main(plan, tmp_path / "c", main)
    printed = subprocess.run([program], cwd=program.parent, check=True, capture_output=True).stdout
    got = np.frombuffer(printed, "<f4").reshape(-1, 3)
    np.testing.assert_array_equal(got[1::2], drive(plan, obs[1::2], None).actions)
    np.testing.assert_array_equal(got[::2], drive(plan, obs[::2], None).actions)


SELFTEST = "int main(void) { static @_state_t s; return (int)@_selftest(&s); }"


@needs_cc
@pytest.mark.parametrize("mutant", ["none", "weight bit", "tanh kind", "history order", "fma"])
def test_the_self_test_catches_mutants(tmp_path, mutant):
    plan = actor_plan(activation="fast_tanh")
    where = tmp_path / "c"
    program = compile_main(plan, where, SELFTEST.replace("@", "ltf"), flags=("-O1",))
    source = (where / "ltf.c").read_text()
    flags = ["-O1"]
    if mutant == "weight bit":
        at = source.index("0x1.", source.index("ltf_weights = {"))
        digit = source[at + 4]
        source = source[: at + 4] + ("1" if digit != "1" else "2") + source[at + 5 :]
    elif mutant == "tanh kind":
        source = source.replace("* (27.0f + s)) / (27.0f + 9.0f * s)", "* (26.9f + s)) / (26.9f + 9.0f * s)")
    elif mutant == "history order":
        swap = "*(entry_t *)(void *)(x + 124 - i) = *(const entry_t *)(const void *)(x + 120 - i);"
        lines = source.splitlines()
        at = next(i for i, line in enumerate(lines) if line.lstrip().startswith("*(entry_t *)"))
        lines[at] = swap
        source = "\n".join(lines)
    elif mutant == "fma":
        source = source.replace("a0 = a0 + w[0] * v;", "a0 = __builtin_fmaf(w[0], v, a0);")
    (where / "ltf.c").write_text(source)
    command = ["cc", "-std=c99", *flags, "-I.", "main.c", "ltf.c", "-lm", "-o", "main"]
    subprocess.run(command, cwd=where, check=True, capture_output=True)
    code = subprocess.run([program], check=False).returncode
    assert (code == 0) == (mutant == "none")


@needs_cc
@pytest.mark.parametrize(
    ("flags", "source", "message"),
    [
        (["-ffast-math"], None, "ffast-math"),
        ([], ("sizeof(small_weights_t) == ", "sizeof(small_weights_t) == 1+"), "negative"),
    ],
)
def test_static_checks_stop_a_wrong_build(tmp_path, flags, source, message):
    plan = small_plan()
    write_c(plan, tmp_path)
    if source:
        text = (tmp_path / "small.c").read_text()
        (tmp_path / "small.c").write_text(text.replace(*source))
    done = subprocess.run(
        ["cc", "-std=c99", *flags, "-c", "small.c"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode and message in done.stderr


BLOB = """
static unsigned char blob[1 << 20];
int main(int argc, char **argv) {
  static small_state_t s; float obs[5] = {0.1f, -0.2f, 0.3f, 0.4f, -0.5f}, act[3]; unsigned i, k, bad = 0;
  unsigned size; FILE *f = fopen(argv[1], "rb"); (void)argc;
  size = (unsigned)fread(blob, 1, sizeof blob, f);
  small_reset(&s, 0.0f);
  for (i = 0; i < size * 8u; i += 7u) {
    blob[i / 8] ^= (unsigned char)(1u << (i % 8)); bad += small_load(&s, blob, size) == 0u;
    blob[i / 8] ^= (unsigned char)(1u << (i % 8));
  }
  bad += small_load(&s, blob, size - 1u) == 0u; bad += small_load(&s, blob + 1, size) == 0u;
  bad += small_load(&s, blob, 0u) == 0u;
  for (k = 0; k < 3; k++) { small_step(&s, obs, act); fwrite(act, 4, 3, stdout); }
  small_reset(&s, 0.0f);
  bad += small_load(&s, blob, size) != 0u;
  for (k = 0; k < 9; k++) { small_step(&s, obs, act); fwrite(act, 4, 3, stdout); }
  return (int)bad;
}
"""


@needs_cc
@pytest.mark.parametrize("dtype", ["f32", "w16", "i16", "w8"])
def test_a_blob_replaces_weights_in_flight_or_is_refused(tmp_path, dtype):
    plan = small_plan(dtype)
    other = reweighted(plan, seeded_actor(np.random.default_rng(9), (20, 16, 7, 3)))
    program = compile_main(plan, tmp_path / "c", BLOB, loadable=True)
    blob = blob_bytes(other)
    check_blob(plan, blob)
    (tmp_path / "new.bin").write_bytes(blob)
    done = subprocess.run([program, tmp_path / "new.bin"], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    got = np.frombuffer(done.stdout, "<f4").reshape(-1, 3)
    obs = np.tile(np.array([0.1, -0.2, 0.3, 0.4, -0.5], np.float32), (9, 1))
    np.testing.assert_array_equal(got[:3], drive(plan, obs[:3], None).actions)
    np.testing.assert_array_equal(got[3:], drive(other, obs, None).actions)


def test_a_blob_of_another_network_is_refused_on_the_host():
    plan = small_plan()
    blob = bytearray(blob_bytes(plan))
    blob[100] ^= 1
    with pytest.raises(ExportError, match="damaged"):
        check_blob(plan, bytes(blob))
    with pytest.raises(ExportError, match="another network"):
        reweighted(plan, seeded_actor(np.random.default_rng(9), (20, 16, 7, 3), "fast_tanh"))
    with pytest.raises(ExportError, match="bytes, not"):
        check_blob(plan, blob_bytes(actor_plan()))
    assert zlib.crc32(blob_bytes(plan)[:-4]) == int.from_bytes(blob_bytes(plan)[-4:], "little")


@pytest.mark.parametrize(
    "wrong",
    [
        {"state": 5, "clip": -1.0},
        {"state": 5, "order": "sideways"},
        {"state": 5, "history": (1, 3)},
        {"state": 5, "feed": "hearsay"},
        {"state": 0},
    ],
)
def test_impossible_rules_are_refused(wrong):
    with pytest.raises(ExportError):
        ObsSpec(**wrong)


def test_actions_and_shapes_must_fit():
    with pytest.raises(ExportError, match="failsafe action lies outside"):
        make_plan("p", actor(), action=ActionSpec(failsafe=2.0))
    with pytest.raises(ExportError, match="takes 146 values"):
        make_plan("p", actor(), obs=ObsSpec(17, history=(32, 4), period=5))
    with pytest.raises(ExportError, match="no C identifier"):
        make_plan("p q", actor())
