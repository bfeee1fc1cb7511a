"""Write the packages around an export: CMake, Arduino, PlatformIO, Zephyr, ESP-IDF and the Crazyflie app.

The C files lie once in the root and once in `src/` of the Arduino tree, because the Arduino builder
compiles only that folder; every other package refers to the root. Nothing links to a place on the network.
"""

from __future__ import annotations

import json
from typing import Any

from flocklet.firmware_export.c.step import STATUS, has_time
from flocklet.firmware_export.packages.crazyflie import crazyflie_files, motor_meaning
from flocklet.firmware_export.packages.plain_text import plain_text
from flocklet.firmware_export.plan.plan import Plan

__all__ = ["PACKAGES", "package_files"]

PACKAGES = ("plain", "cmake", "arduino", "platformio", "zephyr", "esp-idf", "crazyflie")
_VERSION = "1.0.0"


def _call(plan: Plan) -> str:
    previous = ", action" if plan.obs.history and plan.obs.feed == "previous_action" else ""
    now = ", now_us" if has_time(plan) else ""
    return f"{plan.name}_step(&state, obs{previous}{now}, action)"


def _cmake(plan: Plan) -> dict[str, str]:
    n = plan.name
    return {
        "CMakeLists.txt": f"""\
# add_subdirectory() this folder and link the target "{n}". Zephyr and ESP-IDF have files of their own.
cmake_minimum_required(VERSION 3.13)
project({n} LANGUAGES C)
add_library({n} STATIC {n}.c)
target_include_directories({n} PUBLIC ${{CMAKE_CURRENT_SOURCE_DIR}})
set_target_properties({n} PROPERTIES C_STANDARD 99 C_STANDARD_REQUIRED ON)
"""
    }


def _arduino(plan: Plan, sources: dict[str, str | bytes]) -> dict[str, str | bytes]:
    n = plan.name
    now = "  const uint64_t now_us = micros();\n" if has_time(plan) else ""
    sketch = f"""\
// Runs the policy and prints its status. Replace read_sensors() by your own.
#include <{n}.h>

static {n}_state_t state;
static float obs[{n}_STATE];
static float action[{n}_ACTIONS];

static void read_sensors() {{
  for (int i = 0; i < {n}_STATE; i++) {{
    obs[i] = 0.0f;
  }}
}}

void setup() {{
  Serial.begin(115200);
  if ({n}_selftest(&state) != 0) {{
    Serial.println("self-test failed");
    for (;;) {{
    }}
  }}
  {n}_reset(&state, {n}_HISTORY_INIT);
}}

void loop() {{
  read_sensors();
{now}  const uint32_t status = {_call(plan)};
  Serial.println(status);
}}
"""
    library = f"""\
name={n}
version={_VERSION}
author=flocklet
maintainer=flocklet
sentence=A trained policy as C, exported by flocklet.
paragraph=Data type {plan.dtype}, {plan.network.n_in} inputs, {plan.network.n_out} actions. No heap, no static RAM.
category=Device Control
url=
architectures=*
includes={n}.h
"""
    copies = {f"arduino/{n}/src/{key}": sources[key] for key in (f"{n}.h", f"{n}.c", f"{n}_test_vectors.h")}
    return {
        f"arduino/{n}/library.properties": library,
        f"arduino/{n}/examples/run/run.ino": sketch,
        f"arduino/{n}/keywords.txt": f"{n}_step\tKEYWORD2\n{n}_reset\tKEYWORD2\n{n}_selftest\tKEYWORD2\n",
        **copies,
    }


def _platformio(plan: Plan) -> dict[str, str]:
    n = plan.name
    body = {
        "name": n,
        "version": _VERSION,
        "description": "A trained policy as C, exported by flocklet.",
        "license": "MIT",
        "frameworks": "*",
        "platforms": "*",
        "headers": f"{n}.h",
        "build": {"srcDir": ".", "includeDir": ".", "srcFilter": f"+<{n}.c>"},
    }
    return {"library.json": json.dumps(body, indent=2) + "\n"}


def _zephyr(plan: Plan) -> dict[str, str]:
    n, option = plan.name, plan.name.upper()
    return {
        "zephyr/module.yml": f"name: {n}\nbuild:\n  cmake: zephyr\n  kconfig: zephyr/Kconfig\n",
        "zephyr/CMakeLists.txt": f"""\
if(CONFIG_{option}_POLICY)
  zephyr_include_directories(${{CMAKE_CURRENT_SOURCE_DIR}}/..)
  zephyr_library()
  zephyr_library_sources(${{CMAKE_CURRENT_SOURCE_DIR}}/../{n}.c)
endif()
""",
        "zephyr/Kconfig": f'config {option}_POLICY\n\tbool "Policy {n} exported by flocklet"\n\tdefault y\n',
    }


def _esp_idf(plan: Plan) -> dict[str, str]:
    n = plan.name
    return {
        f"esp-idf/{n}/CMakeLists.txt": f'idf_component_register(SRCS "../../{n}.c" INCLUDE_DIRS "../..")\n',
        f"esp-idf/{n}/idf_component.yml": f'version: "{_VERSION}"\ndescription: "Policy {n} exported by flocklet"\n',
    }


def _history_text(plan: Plan) -> str:
    obs = plan.obs
    if obs.history is None:
        return "No action history: the network sees only the present observation."
    how = (
        "after each call with the action that the policy gave"
        if obs.feed == "raw_output"
        else "before each call with the action that the caller reports as `previous`"
    )
    when = (
        f"every {obs.native_interval_us} us of time"
        if obs.native_interval_us
        else f"every {obs.period} calls"
    )
    return (
        f"{obs.history[0]} entries of {obs.history[1]} actions, seen by the network {obs.order.replace('_', ' ')}. The "
        f"newest entry is the running mean of its period, updated {how}; the history moves on {when}. After a reset it "
        f"holds {obs.init:g}."
    )


def readme(plan: Plan, manifest: dict[str, Any], packages: tuple[str, ...]) -> str:
    """Return the README of an export."""
    n, action = plan.name, plan.action
    bits = "\n".join(f"| {value} | `{n}_{key}` | {text} |" for key, (value, text) in STATUS.items())
    error = manifest["error"]
    wiring = {
        "cmake": f"- CMake: `add_subdirectory(DIR)`, then `target_link_libraries(app {n})`.",
        "arduino": f"- Arduino: copy `arduino/{n}` into the `libraries` folder; open the example `run`.",
        "platformio": "- PlatformIO: copy this folder into `lib/` of the project.",
        "zephyr": f"- Zephyr: add this folder to `ZEPHYR_EXTRA_MODULES`; `CONFIG_{n.upper()}_POLICY` is on by default.",
        "esp-idf": f"- ESP-IDF: add `esp-idf` to `EXTRA_COMPONENT_DIRS`; the component is `{n}`. RISC-V parts only are"
        " covered by the proofs; Xtensa parts compile with the vendor's compiler and are not verified.",
        "crazyflie": "- Crazyflie: `make -C crazyflie CRAZYFLIE_BASE=PATH_OF_THE_FIRMWARE`; see `crazyflie/README.md`.",
    }
    if motor_meaning(action.meaning) is None:
        wiring["crazyflie"] = (
            "- Crazyflie: not written, because `action.meaning` says neither rpm_fraction nor force_fraction."
        )
    wired = "\n".join(wiring[package] for package in packages if package in wiring)
    return f"""\
# {n}

A trained policy as C99, generated by {manifest["exporter"]}. Network {"-".join(map(str, plan.network.dims))}, data type
{plan.dtype}, {manifest["weights_bytes"]} bytes of weights. No heap, no static RAM, no C library.

## How it must be called
- Observed values per call: {plan.obs.state}, each cut to {_short(plan.obs.clip)}.
- {_history_text(plan)}
- Action: {plain_text(action.meaning)}; limits {_short(action.low)} to {_short(action.high)}.
- Failsafe action {_short(action.failsafe)}: after {action.bad_limit} bad inputs in a row\
{f", after a gap of more than {action.max_gap_us} us" if action.max_gap_us else ""}; recovery by \
{action.recovery.replace("_", " ")}.

```c
#include "{n}.h"
static {n}_state_t state;
{n}_reset(&state, {n}_HISTORY_INIT);
uint32_t status = {_call(plan)};
```

| bit | name | meaning |
|---:|---|---|
{bits}

## Where to put it
- Plain C (PX4 and others): add `{n}.c` and `{n}.h` to the build. Hex floats need a C compiler, not C++.
{wired}

## What is known
- {_compared(manifest)}
- Error against float64: at most {error["max"]:.1e} over {error["count"]} {error["observations"]} observations.
- What was run, on which compiler, core and emulator, stands in `manifest.json` under `verified`; nothing else was.
- Model SHA-256: `{manifest["model_sha256"]}`.
- Departures from MISRA C:2012 that cppcheck 2.10 finds in code of this kind: rules 2.2, 8.9, 10.1, 10.3, 10.4, 10.6,
  10.8, 11.5, 12.1, 12.3, 13.3, 13.5, 14.2, 15.5, 15.7, 17.8, 18.4 and 19.2 (pointer arithmetic, changed parameters,
  precedence without brackets, unions that read the bits of a float, several exits). Inline assembler is one more.
"""


def _compared(manifest: dict[str, Any]) -> str:
    found = manifest.get("compared", "not a file")
    if found == "not a file":
        return "The network was made in Python; there is no file to compare it with."
    if isinstance(found, str):
        return "The ONNX file: not compared. Nothing shows that it was read rightly."
    return (
        f"The ONNX file was run by {found['with']} on {found['observations']} observations: the same outputs within "
        f"{found['largest_difference']:.1e}."
    )


def _short(value: float | tuple[float, ...]) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{v:g}" for v in value)
    return f"{value:g}"


def package_files(
    plan: Plan, sources: dict[str, str | bytes], manifest: dict[str, Any], packages: tuple[str, ...]
) -> dict[str, str | bytes]:
    """Return the files of the chosen packages by path."""
    files: dict[str, str | bytes] = {"README.md": readme(plan, manifest, packages)}
    if "cmake" in packages:
        files |= _cmake(plan)
    if "arduino" in packages:
        files |= _arduino(plan, sources)
    if "platformio" in packages:
        files |= _platformio(plan)
    if "zephyr" in packages:
        files |= _zephyr(plan)
    if "esp-idf" in packages:
        files |= _esp_idf(plan)
    if "crazyflie" in packages and plan.network.n_out == 4 and plan.obs.state == 18:
        files |= crazyflie_files(plan)
    return files
