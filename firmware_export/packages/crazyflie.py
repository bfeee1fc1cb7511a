"""Write an out-of-tree controller app for the Crazyflie firmware (current upstream signatures).

The app is written for policies of the Learning-to-Fly kind: 18 observed values (position error, rotation
matrix, velocity error, body rates in rad/s) and 4 motor commands. The policy is off until the parameter
`pol.enable` is set; the PID controller flies while it is off or in failsafe.
"""

from __future__ import annotations

from flocklet.firmware_export.c.step import has_time
from flocklet.firmware_export.c.template import fill, named
from flocklet.firmware_export.plan.plan import Plan

__all__ = ["crazyflie_files"]


_README = """\
# @N@ on a Crazyflie

1. Build: `make CRAZYFLIE_BASE=PATH_OF_THE_FIRMWARE_TREE` in this folder (default: `../../crazyflie-firmware`).
2. Flash it as any firmware. At start `pol.selftest` must read 0.
3. Select the out-of-tree controller (`stabilizer.controller`), then set `pol.enable` to 1. With 0 the PID flies.
4. `pol.warmupMs` keeps the motors at 1/7 for that many milliseconds after enabling. The default is @WARMUP@.

The policy runs every @STEP@ ms; in between its last action is held. The action means: @MEANING@.
The app sends `normalizedForces = (a + 1) / 2`. **Force or RPM:** where the policy was trained with RPM fractions, this
is not the same curve; check the meaning above before the first flight.
"""


def crazyflie_files(plan: Plan) -> dict[str, str | bytes]:
    """Return the files of the app by path."""
    n = plan.name
    step = max(1, round((plan.action.interval_us or 2000) / 1000))
    previous = ", action" if plan.obs.history and plan.obs.feed == "previous_action" else ""
    now = ", before" if has_time(plan) else ""
    text = fill(
        "crazyflie_app.c.in",
        CALL=f"@N@_step(&policy, observed{previous}{now}, action)",
        STEP=str(step),
        WARMUP="500",
    )
    about = _README.replace("@STEP@", str(step)).replace("@MEANING@", plan.action.meaning)
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
        "crazyflie/README.md": about.replace("@N@", n).replace(
            "@WARMUP@", "500 (safe for motors; LTF flew with 0)"
        ),
    }
