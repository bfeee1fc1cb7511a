"""Write an out-of-tree controller app for the Crazyflie firmware (current upstream signatures).

The app is written for policies of the Learning-to-Fly kind: 18 observed values (position error, rotation
matrix, velocity error, body rates in rad/s) and 4 motor commands. The policy is off until the parameter
`pol.enable` is set; the PID controller flies while it is off or in failsafe.
"""

from __future__ import annotations

import re

from flocklet.firmware_export.c.step import has_time
from flocklet.firmware_export.c.template import fill, named
from flocklet.firmware_export.packages.plain_text import plain_text
from flocklet.firmware_export.plan.plan import Plan

__all__ = ["crazyflie_files", "motor_meaning"]

RPM_MAX = 21702.1  # Learning to Fly (Eschmann et al. 2023): rpm at an action of 1
THRUST = "3.16e-10f"  # newtons per rpm^2 of one rotor, the plant that policies are trained on (flight.sim.dynamics)


_README = """\
# @N@ on a Crazyflie

1. Build: `make CRAZYFLIE_BASE=PATH_OF_THE_FIRMWARE_TREE` in this folder (default: `../../crazyflie-firmware`).
2. Flash it as any firmware. At start `pol.selftest` must read 0.
3. Select the out-of-tree controller (`stabilizer.controller`), then set `pol.enable` to 1. With 0 the PID flies.
4. `pol.warmupMs` keeps the motors at 1/7 for that many milliseconds after enabling. The default is 500 (safe for motors;
   LTF flew with 0).

The policy runs every @STEP@ ms; in between its last action is held. The action means: @MEANING@.
@FORCE@
Yaw set-points are followed: an angle, an absolute quaternion or a rate. The observation is turned back by that heading,
so the policy flies it as the yaw of zero that it was trained to hold. Compiled and run against stubs of the firmware's
types, never on a Crazyflie.
"""

_FORCES = {
    "rpm_fraction": """\
It is a rotor speed, so the app computes its thrust (3.16e-10 rpm^2 newtons, at most at {rpm:g} rpm) and sends the share
of `THRUST_MAX` where the firmware compensates for the battery (`CONFIG_ENABLE_THRUST_BAT_COMPENSATED`), else the duty of
the voltage that gives this thrust by the firmware's own curve. `THRUST_MAX` is the platform's, or .1125 N.
""",
    "force_fraction": "It is a share of the largest thrust: the app sends `normalizedForces = (a + 1) / 2`.\n",
}


def motor_meaning(meaning: str) -> tuple[str, float] | None:
    """Return what an action commands and the rpm at 1; None where the text says neither.

    Known: `rpm_fraction[: ... * RPM]`, a share of the largest rotor speed, and `force_fraction`, of the largest thrust.
    """
    kind = meaning.split(":")[0].strip()
    if kind not in _FORCES:
        return None
    found = re.search(r"\*\s*([0-9]{3,6}(?:\.[0-9]+)?)\s*$", meaning)
    return kind, float(found.group(1)) if found else RPM_MAX


def crazyflie_files(plan: Plan) -> dict[str, str | bytes]:
    """Return the files of the app by path; none where the meaning of the action is not known."""
    known = motor_meaning(plan.action.meaning)
    if known is None:
        return {}
    kind, rpm = known
    n = plan.name
    step = max(1, round((plan.action.interval_us or 2000) / 1000))
    previous = ", action" if plan.obs.history and plan.obs.feed == "previous_action" else ""
    now = ", before" if has_time(plan) else ""
    text = fill(
        "crazyflie_app.c.in",
        CALL=f"@N@_step(&policy, observed{previous}{now}, action)",
        STEP=str(step),
        WARMUP="500",
        FORCE=fill("crazyflie_force_fraction.c.in")
        if kind == "force_fraction"
        else fill("crazyflie_rpm_fraction.c.in", RPM=f"{rpm:.1f}f", THRUST=THRUST),
    )
    words = {"N": n, "STEP": str(step), "MEANING": plain_text(plan.action.meaning)}
    words["FORCE"] = _FORCES[kind].format(rpm=rpm)
    about = re.sub("@([A-Z]+)@", lambda mark: words[mark.group(1)], _README)
    return {
        "crazyflie/Makefile": (
            "CRAZYFLIE_BASE ?= ../../crazyflie-firmware\n"
            "OOT_CONFIG := $(PWD)/app-config\nEXTRA_CFLAGS += -I$(PWD)/..\n"
            "include $(CRAZYFLIE_BASE)/tools/make/oot.mk\n"
        ),
        "crazyflie/Kbuild": "obj-y += src/\n",
        "crazyflie/app-config": (
            "CONFIG_APP_ENABLE=y\nCONFIG_APP_PRIORITY=1\nCONFIG_APP_STACKSIZE=350\nCONFIG_CONTROLLER_OOT=y\n"
        ),
        "crazyflie/src/Kbuild": f"obj-y += {n}_app.o\nobj-y += {n}_policy.o\n",
        f"crazyflie/src/{n}_policy.c": f'#include "../../{n}.c"\n',
        f"crazyflie/src/{n}_app.c": named(text, n),
        "crazyflie/README.md": about,
    }
