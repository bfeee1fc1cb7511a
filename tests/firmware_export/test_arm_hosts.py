"""The bits of an export on ARM Linux machines, 64 and 32 bits: cross-compiled, run under qemu-user, equal to NumPy."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from flocklet.errors import VerificationError
from flocklet.firmware_export.c import emit
from flocklet.firmware_export.plan.plan import Plan
from flocklet.firmware_export.verify.expected import expected_of
from flocklet.firmware_export.verify.host import HostProgram, build_host
from flocklet.firmware_export.verify.toolchain import available
from kit.firmware import actor_plan, small_plan, write_c

pytestmark = pytest.mark.qemu

MACHINES = {"aarch64": "aarch64-linux-gnu-gcc", "arm": "arm-linux-gnueabihf-gcc"}


def built(machine: str, plan: Plan, where: Path, flags: tuple[str, ...] = ()) -> HostProgram:
    """Compile for a machine with its gcc; skip, and say what is missing, where one of the tools is."""
    emulator, compiler = f"qemu-{machine}", MACHINES[machine]
    found = shutil.which(emulator) or shutil.which(f"{emulator}-static")
    if found is None:
        pytest.skip(f"{emulator} is not installed (Debian: qemu-user-static)")
    if not available(compiler):
        pytest.skip(f"{compiler} is not installed (Debian: gcc-{compiler.removesuffix('-gcc')})")
    source = write_c(plan, where / "c")
    return build_host(
        plan,
        source,
        where / "host",
        sanitize=False,
        flags=("-O2", "-static", *flags),
        compiler=compiler,
        emulator=(found,),
    )


def check(program: HostProgram) -> None:
    expected = expected_of(program.plan, vectors=24, steps=60)
    y, good = program.run(expected.x.view(np.uint32), is_step=False)
    words, _ = program.run(expected.records, is_step=True)
    np.testing.assert_array_equal(y, expected.y.view(np.uint32))
    np.testing.assert_array_equal(words, expected.step_words)
    assert good == 0, "its own test vectors"


@pytest.mark.parametrize("dtype", ["f32", "w16", "w8", "i16"])
@pytest.mark.parametrize("machine", list(MACHINES))
def test_the_actor_is_bit_exact_on_arm_linux(machine: str, dtype: str, tmp_path: Path) -> None:
    check(built(machine, actor_plan(dtype), tmp_path))


@pytest.mark.parametrize(("machine", "processor"), [("aarch64", ()), ("arm", ("-mfpu=vfpv4",))])
def test_no_flag_fuses_its_sums(
    machine: str, processor: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These processors multiply and add in one rounding if they may; the control is the code without its guard."""
    flags = (*processor, "-ffp-contract=fast")
    check(built(machine, actor_plan("f32"), tmp_path / "guarded", flags))
    unguarded = emit.FLOAT_GUARD.replace('"fp-contract=off", ', "")
    assert unguarded != emit.FLOAT_GUARD
    monkeypatch.setattr(emit, "FLOAT_GUARD", unguarded)
    bare = built(machine, actor_plan("f32"), tmp_path / "bare", flags)
    expected = expected_of(bare.plan, vectors=24, steps=8)
    y, _ = bare.run(expected.x.view(np.uint32), is_step=False)
    assert not np.array_equal(y, expected.y.view(np.uint32))
    np.testing.assert_allclose(y.view(np.float32), expected.y, atol=1e-4)


def test_a_missing_compiler_is_one_line(tmp_path: Path) -> None:
    plan = small_plan("f32")
    with pytest.raises(VerificationError, match="'no-such-gcc' is not installed"):
        build_host(plan, write_c(plan, tmp_path / "c"), tmp_path / "host", compiler="no-such-gcc")
