"""Fly the firmware: the emulated image in the loop gives the trajectory of the NumPy policy bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from flocklet.firmware_export.export import export_policy
from flocklet.firmware_export.read.semantics import preset
from flocklet.firmware_export.verify.processor_in_loop import Firmware, ToyPlant, fly, reference_policy
from kit.firmware import actor, needs_gcc, needs_unicorn


@needs_gcc
@needs_unicorn
@pytest.mark.parametrize(
    ("dtype", "rules"), [("f32", "learning-to-fly"), ("w16", "rl-tools"), ("i16", "learning-to-fly")]
)
def test_the_flight_is_the_same_bit_for_bit(tmp_path, dtype, rules):
    obs, action = preset(rules)
    made = export_policy(
        actor(), tmp_path, name="ltf", dtype=dtype, obs=obs, action=action, packages=("plain",)
    )
    firmware = Firmware(made, compiler="gcc")
    emulated = fly(firmware, ToyPlant(18, 4), seed=3, ticks=250)
    numpy = fly(reference_policy(made), ToyPlant(18, 4), seed=3, ticks=250)
    np.testing.assert_array_equal(emulated.view(np.uint32), numpy.view(np.uint32))
    assert firmware.status == 0
    assert np.abs(emulated[:, 18:]).max() > 0.01
    assert not np.array_equal(emulated, fly(reference_policy(made), ToyPlant(18, 4), seed=4, ticks=250))
