"""Emulated cores: the same bits from every compiler, core and engine; instruction, stack and flash bars."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flocklet.errors import VerificationError
from flocklet.firmware_export.export import export_policy
from flocklet.firmware_export.plan.plan import make_plan
from flocklet.firmware_export.read.network import Activation, Dense, Gru, Network, seeded_actor
from flocklet.firmware_export.verify import qemu_engine
from flocklet.firmware_export.verify.cycles import count_cycles, decode
from flocklet.firmware_export.verify.elf import read_elf
from flocklet.firmware_export.verify.expected import expected_of
from flocklet.firmware_export.verify.harness import build_empty, build_image, build_size, layout_of
from flocklet.firmware_export.verify.proof import Report, Row, measure, run_unicorn, step_call, verify
from flocklet.firmware_export.verify.toolchain import CORES, compile_image, compile_object
from flocklet.firmware_export.verify.unicorn_engine import Emulator
from kit.firmware import actor_plan, needs_gcc, needs_qemu, needs_unicorn, needs_zig, small_plan, write_c

M4 = CORES["cortex-m4"]
BARS = {  # instructions, model cycles, flash bytes of the worst cached step of the seeded 146-64-64-4
    "f32": (20_000, 42_000, 55_312 + 2_048),
    "w16": (20_000, 30_000, 31_500),
}


def build(plan, tmp_path, compiler="gcc", core=M4, flags="-std=c99 -O2", **how):
    source = write_c(plan, tmp_path / "c", **how)
    image = build_image(plan, source, compiler, core, tmp_path / "b", flags=flags.split())
    return source, image


def equal(plan, image, core, expected) -> Emulator:
    result, detail, sha, emulator = run_unicorn(plan, read_elf(image), core, expected)
    assert result == "equal", detail
    assert sha == expected.sha256
    return emulator


@needs_gcc
@needs_unicorn
@pytest.mark.parametrize("activation", ["tanh", "fast_tanh"])
@pytest.mark.parametrize("dtype", ["f32", "w16"])
def test_m4_bars_hold(tmp_path, dtype, activation):
    plan = actor_plan(dtype, activation=activation)
    source, image = build(plan, tmp_path)
    expected = expected_of(plan, vectors=16, steps=24)
    cost = measure(plan, equal(plan, image, M4, expected), expected, cycles=True)
    flags = ["-std=c99", "-O2"]
    empty = read_elf(build_empty("gcc", M4, tmp_path / "b", flags=flags))
    step = read_elf(build_size(plan, source, "gcc", M4, tmp_path / "b", flags=flags, what="step"))
    instructions, cycles, flash = BARS[dtype]
    assert cost["step_instructions"] <= instructions
    assert cost["step_cycles"] <= cycles
    assert step.flash_bytes - empty.flash_bytes <= flash
    assert cost["stack_bytes"] <= 128
    compile_object("gcc", M4, [source / "ltf.c"], tmp_path / "o.o", flags=flags, include=[source])
    library = read_elf(tmp_path / "o.o")
    assert library.ram_bytes == 0
    assert library.undefined == ()


@needs_gcc
@needs_unicorn
def test_stateless_tanh_bar_and_the_cached_sums_pay(tmp_path):
    plan = actor_plan(activation="tanh")
    _, image = build(plan, tmp_path)
    expected = expected_of(plan, vectors=16, steps=20)
    cost = measure(plan, equal(plan, image, M4, expected), expected, cycles=False)
    assert cost["eval_instructions"] <= 36_000
    assert cost["step_instructions"] < 0.65 * cost["eval_instructions"]


@needs_gcc
@needs_unicorn
def test_i16_bar_on_a_core_without_fpu(tmp_path):
    core = CORES["cortex-m0plus"]
    plan = actor_plan("i16")
    _, image = build(plan, tmp_path, core=core)
    expected = expected_of(plan, vectors=16, steps=20)
    cost = measure(plan, equal(plan, image, core, expected), expected, cycles=False)
    assert cost["eval_instructions"] <= 150_000
    assert cost["step_instructions"] <= 75_000


@needs_gcc
@needs_unicorn
@pytest.mark.parametrize("flags", ["-std=c99 -O3", "-std=gnu11 -Os", "-std=gnu11 -O0"])
@pytest.mark.parametrize("dtype", ["f32", "w16"])
def test_bits_do_not_depend_on_the_optimisation_level(tmp_path, flags, dtype):
    plan = actor_plan(dtype)
    _, image = build(plan, tmp_path, flags=flags)
    equal(plan, image, M4, expected_of(plan, vectors=4, steps=12))


@needs_gcc
@needs_unicorn
@pytest.mark.parametrize("flags", ["-std=gnu11 -Os", "-std=gnu11 -O0"])
def test_i16_assembler_survives_every_level_without_fpu(tmp_path, flags):
    core = CORES["cortex-m0plus"]
    plan = actor_plan("i16")
    _, image = build(plan, tmp_path, core=core, flags=flags)
    equal(plan, image, core, expected_of(plan, vectors=2, steps=7))


@needs_gcc
@needs_unicorn
def test_assembler_and_c_kernels_give_the_same_bits(tmp_path):
    plan = actor_plan(activation="tanh")
    _, image = build(plan, tmp_path, use_asm=False)
    equal(plan, image, M4, expected_of(plan, vectors=4, steps=12))


@needs_gcc
@needs_unicorn
@pytest.mark.parametrize("dtype", ["f32", "w16", "i16"])
@pytest.mark.parametrize("name", ["cortex-m4", "cortex-m0plus"])
def test_odd_sizes_run_on_the_kernels_of_every_core(tmp_path, dtype, name):
    plan = small_plan(dtype, feed="previous_action", order="newest_first", init=-0.5)
    _, image = build(plan, tmp_path, core=CORES[name])
    equal(plan, image, CORES[name], expected_of(plan, vectors=12, steps=16))


@needs_gcc
@needs_unicorn
@pytest.mark.parametrize("seed", range(5))
def test_any_shape_runs_on_the_m4_kernels(tmp_path, seed):
    rng = np.random.default_rng(seed)
    dims = tuple(int(v) for v in rng.integers(1, 40, 3 + seed % 3))
    kinds = ["tanh", "fast_tanh", "sigmoid", "relu", "tanh"]
    net = seeded_actor(rng, dims, kinds[seed], "tanh")
    if seed == 4:
        wide = [
            rng.normal(0, 0.4, shape).astype(np.float32)
            for shape in ((15, 7), (15, 5), (15,), (15,), (2, 5), (2,))
        ]
        net = Network((Gru(*wide[:4], True), Dense(wide[4], wide[5], Activation("tanh"))))
    plan = make_plan("any", net)
    _, image = build(plan, tmp_path)
    equal(plan, image, M4, expected_of(plan, vectors=12, steps=8))


@needs_gcc
@needs_unicorn
def test_contraction_is_what_the_pragma_stops(tmp_path):
    """Without the guard, gnu11 fuses multiply and add on the M4 and the bits change; with it they do not."""
    plan = actor_plan(activation="tanh")
    source = write_c(plan, tmp_path / "c", use_asm=False)
    text = (source / "ltf.c").read_text()
    (source / "ltf.c").write_text(text.replace('"fp-contract=off", ', ""))
    flags = ["-std=gnu11", "-O2"]
    image = build_image(plan, source, "gcc", M4, tmp_path / "b", flags=flags)
    result, _, _, _ = run_unicorn(plan, read_elf(image), M4, expected_of(plan, vectors=4, steps=12))
    assert result == "different"


@needs_zig
@needs_unicorn
@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("cortex-m4", "f32"),
        ("cortex-m7", "w16"),
        ("cortex-m33", "f32"),
        ("rv32imc", "w16"),
        ("rv32imc", "i16"),
    ],
)
def test_zig_gives_the_same_bits_on_every_core(tmp_path, name, dtype):
    plan = actor_plan(dtype, "rl-tools")
    _, image = build(plan, tmp_path, "zig", CORES[name])
    equal(plan, image, CORES[name], expected_of(plan, vectors=4, steps=12))


@needs_zig
@needs_unicorn
@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize(("dtype", "flags"), [("f32", "-O2"), ("i16", "-O2"), ("i16", "-Os")])
def test_zig_gives_the_same_bits_without_fpu(tmp_path, dtype, flags):
    core = CORES["cortex-m0plus"]
    plan = actor_plan(dtype)
    _, image = build(plan, tmp_path, "zig", core, flags=f"-std=c99 {flags}")
    equal(plan, image, core, expected_of(plan, vectors=2, steps=7))


@needs_zig
@needs_unicorn
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_forgotten_fpu_flag_shows_in_the_count(tmp_path):
    """zig's cortex_m4 has no FPU; the bits stay right, only the instruction bar tells."""
    bare = replace(M4, zig=("-target", "thumb-freestanding-eabi", "-mcpu=cortex_m4"))
    plan = actor_plan()
    expected = expected_of(plan, vectors=2, steps=3)
    counts = []
    for i, core in enumerate((M4, bare)):
        _, image = build(plan, tmp_path / str(i), "zig", core)
        emulator = equal(plan, image, core, expected)
        emulator.write(emulator.buffer(0), expected.x[0])
        call = emulator.call("drive_eval", emulator.buffer(0), emulator.buffer(1), count=True)
        counts.append(call.instructions)
    assert counts[0] < 40_000 and counts[1] > 1_000_000


@needs_gcc
@needs_qemu
@needs_unicorn
@pytest.mark.qemu
@pytest.mark.parametrize(
    ("name", "dtype"), [("cortex-m4", "f32"), ("cortex-m33", "w16"), ("cortex-m0plus", "i16")]
)
def test_qemu_boots_the_image_and_agrees_with_unicorn(tmp_path, name, dtype):
    plan, core = actor_plan(dtype), CORES[name]
    _, image = build(plan, tmp_path, core=core)
    expected = expected_of(plan, vectors=8, steps=12)
    layout = layout_of(plan)
    y = qemu_engine.run_image(
        image, core, expected.x.view(np.uint32), layout.eval_out, tmp_path, is_step=False
    )
    np.testing.assert_array_equal(y.output, expected.y.view(np.uint32))
    steps = qemu_engine.run_image(image, core, expected.records, layout.step_out, tmp_path, is_step=True)
    np.testing.assert_array_equal(steps.output, expected.step_words)
    assert y.exit_code == steps.exit_code == 0
    emulator = Emulator(read_elf(image), core)
    emulator.call("drive_reset")
    source, target = emulator.buffer(0), emulator.buffer(1)
    for i, record in enumerate(expected.records):
        emulator.write(source, record)
        exact = emulator.call("drive_step", source, target, count=True).instructions
        assert abs(steps.instructions[i] - exact) <= 3 * 1000 / core.mhz + 10


@needs_gcc
@needs_qemu
@pytest.mark.qemu
def test_qemu_reports_a_fault(tmp_path):
    plan = actor_plan()
    source = write_c(plan, tmp_path / "c")
    text = (
        (source / "ltf.c")
        .read_text()
        .replace("uint32_t status = 0u;", "uint32_t status = *(volatile uint32_t *)0x60000000;", 1)
    )
    (source / "ltf.c").write_text(text)
    image = build_image(plan, source, "gcc", M4, tmp_path / "b", flags=["-O1"])
    expected = expected_of(plan, vectors=1, steps=1)
    with pytest.raises(VerificationError, match="faulted"):
        qemu_engine.run_image(image, M4, expected.records, 5, tmp_path, is_step=True)


@needs_gcc
@needs_unicorn
def test_unicorn_reports_a_fault_and_a_missing_symbol(tmp_path):
    plan = actor_plan()
    _, image = build(plan, tmp_path)
    emulator = Emulator(read_elf(image), M4)
    with pytest.raises(VerificationError, match="faulted"):
        emulator.call("drive_step", 0x50000000, 0x50000000)
    with pytest.raises(VerificationError, match="no symbol 'nothing'"):
        emulator.call("nothing")


COUNTED = """\
#include <stdint.h>
void reset_handler(void);
uint32_t spin(uint32_t n);
__attribute__((used, noinline)) uint32_t spin(uint32_t n)
{
  __asm__ volatile(".syntax unified\\n1:\\nsubs %0, %0, #1\\nnop\\nbne 1b" : "+r"(n));
  return n;
}
__attribute__((used)) void reset_handler(void) { (void)spin(3); }
"""


@needs_gcc
@needs_unicorn
def test_counts_and_cycles_of_a_known_loop(tmp_path):
    """A loop of subs, nop, taken branch: 3 instructions and 1 + 1 + 3 cycles per turn."""
    from flocklet.firmware_export.verify.harness import write_link

    (tmp_path / "s.c").write_text(COUNTED)
    script = write_link(M4, tmp_path)
    compile_image("gcc", M4, [tmp_path / "s.c"], tmp_path / "s.elf", script=script, flags=["-O2"], include=[])
    emulator = Emulator(read_elf(tmp_path / "s.elf"), M4)
    few, many = (emulator.call("spin", n, count=True).instructions for n in (10, 110))
    assert many - few == 300
    assert count_cycles(emulator, "spin", 110).core - count_cycles(emulator, "spin", 10).core == 500


@pytest.mark.parametrize(
    ("code", "kind", "cycles", "words"),
    [
        ((0xECB3, 0x4A10), "multi", 17, 16),  # vldmia r3!, {s8-s23}
        ((0xEE24, 0x4A0C), "fp", 1, 0),  # vmul.f32 s8, s8, s24
        ((0xEE87, 0x7AA7), "fp", 14, 0),  # vdiv.f32
        ((0xEEA0, 0x0A00), "mac", 3, 0),  # vfma.f32
        ((0xEDDF, 0x5A26), "vload", 2, 1),  # vldr s11, [pc, #152]
        ((0x6833, 0), "load", 2, 1),  # ldr r3, [r6, #0]
        ((0xC90C, 0), "multi", 3, 2),  # ldmia r1!, {r2, r3}
        ((0xE8B0, 0x0078), "multi", 5, 4),  # ldmia.w r0!, {r3-r6}
        ((0xFB23, 0xAA08), "alu", 1, 0),  # smlad
        ((0xFBB1, 0xF0F2), "slow", 12, 0),  # udiv
        ((0xD1DD, 0), "branch", 1, 0),  # bne
        ((0xBF18, 0), "alu", 1, 0),  # it ne
    ],
)
def test_the_decoder_knows_what_the_model_needs(code, kind, cycles, words):
    op = decode(*code)
    assert (op.kind, op.cycles, op.words) == (kind, cycles, words)


def test_a_report_never_says_verified_for_what_did_not_run():
    host = Row("host", "this machine", "cc", "", "equal")
    off = Row("unicorn", "cortex-m4", "zig", "", "not run", "the package unicorn is not installed")
    ran = replace(off, result="equal", detail="")
    wrong = replace(ran, engine="qemu", result="different")
    assert not Report("p", "f32", "", (host, off)).verified
    assert Report("p", "f32", "", (host, ran)).verified
    assert not Report("p", "f32", "", (host, ran, wrong)).verified
    assert not Report("p", "f32", "", ()).verified


def test_step_arguments_follow_the_calling_convention():
    class Fake:
        is_arm = True

        class image:
            @staticmethod
            def symbol(_name: str) -> int:
                return 1

    timed = actor_plan()
    assert step_call(timed, Fake(), 2, 3, 5 << 32 | 4) == [1, 2, 4, 5, 3]  # type: ignore[arg-type]
    fed = actor_plan(rules="rl-tools")
    assert step_call(fed, Fake(), 2, 3, 0) == [1, 2, 2 + 72, 3]  # type: ignore[arg-type]


@needs_gcc
@needs_unicorn
def test_a_recurrent_export_verifies_with_gcc(tmp_path):
    """The driver clears the hidden values itself: gcc must not turn that into a call of memset."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    layers = (
        Gru(draw(96, 6), draw(96, 32), draw(96), draw(96), True),
        Dense(draw(2, 32), draw(2), Activation("tanh")),
    )
    made = export_policy(Network(layers), tmp_path / "g", name="gru", packages=("plain",))
    report = verify(
        made, cc=("gcc",), engines=("unicorn",), flags=("-std=c99 -O2", "-std=c99 -O3"), vectors=8, fuzz=50
    )
    assert report.verified, [row.detail for row in report.rows]
