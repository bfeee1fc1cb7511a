"""The generated tree: golden list of files, and every package compiles without one warning."""

from __future__ import annotations

import configparser
import json
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from flocklet.firmware_export.export import export_policy, load_artifact
from flocklet.firmware_export.packages.frameworks import PACKAGES
from flocklet.firmware_export.plan.reference import observations
from flocklet.firmware_export.read.semantics import preset
from flocklet.firmware_export.verify.elf import read_elf
from flocklet.firmware_export.verify.expected import expected_of
from flocklet.firmware_export.verify.harness import build_image
from flocklet.firmware_export.verify.proof import run_unicorn
from flocklet.firmware_export.verify.toolchain import CORES, WARNINGS
from kit.firmware import actor, needs_cc, needs_gcc, needs_unicorn

CRAZYFLIE = [
    "-mcpu=cortex-m4",
    "-mthumb",
    "-mfloat-abi=hard",
    "-mfpu=fpv4-sp-d16",
    "-Os",
    "-Werror",
    "-std=gnu11",
    "-Wall",
    "-Wmissing-braces",
    "-Wdouble-promotion",
    "-fno-math-errno",
    "-fno-strict-aliasing",
    "-ffunction-sections",
    "-fdata-sections",
    "-mfp16-format=ieee",
]

STUBS = {
    "FreeRTOS.h": "#pragma once\n#include <stdint.h>\ntypedef uint32_t TickType_t;\n",
    "task.h": "#pragma once\nvoid vTaskDelay(const TickType_t ticks);\n#define M2T(ms) ((TickType_t)(ms))\n",
    "app.h": "#pragma once\nvoid appMain(void);\n",
    "usec_time.h": "#pragma once\n#include <stdint.h>\nuint64_t usecTimestamp(void);\n",
    "stabilizer_types.h": """#pragma once
#include <stdbool.h>
#include <stdint.h>
typedef struct { float x, y, z; } axis_t;
typedef struct { float x, y, z, w; } quaternion_t;
typedef struct { axis_t position, velocity; quaternion_t attitudeQuaternion; } state_t;
typedef struct { float roll, pitch, yaw; } attitude_t;
typedef enum { modeDisable = 0, modeAbs, modeVelocity } stab_mode_t;
typedef struct {
  attitude_t attitude, attitudeRate;
  quaternion_t attitudeQuaternion;
  axis_t position, velocity;
  struct { stab_mode_t x, y, z, roll, pitch, yaw, quat; } mode;
} setpoint_t;
typedef struct { axis_t gyro; } sensorData_t;
typedef enum { controlModeLegacy, controlModeForceTorque, controlModeForce } control_mode_t;
typedef struct { float normalizedForces[4]; control_mode_t controlMode; } control_t;
typedef uint32_t stabilizerStep_t;
""",
    "controller.h": """#pragma once
#include "stabilizer_types.h"
void controllerOutOfTreeInit(void);
bool controllerOutOfTreeTest(void);
void controllerOutOfTree(control_t *control, const setpoint_t *setpoint, const sensorData_t *sensors,
                         const state_t *state, const stabilizerStep_t stabilizerStep);
""",
    "controller_pid.h": """#pragma once
#include "stabilizer_types.h"
void controllerPidInit(void);
bool controllerPidTest(void);
void controllerPid(control_t *control, const setpoint_t *setpoint, const sensorData_t *sensors,
                   const state_t *state, const stabilizerStep_t stabilizerStep);
""",
    "log.h": "#pragma once\n#define LOG_GROUP_START(n) const void *const log_##n[] = {\n"
    "#define LOG_ADD(t, n, p) p,\n#define LOG_GROUP_STOP(n) 0};\n",
    "param.h": "#pragma once\n#define PARAM_GROUP_START(n) void *const param_##n[] = {\n"
    "#define PARAM_ADD(t, n, p) p,\n#define PARAM_GROUP_STOP(n) 0};\n",
}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    obs, action = preset("learning-to-fly")
    return export_policy(actor(), tmp_path_factory.mktemp("x"), name="ltf", obs=obs, action=action, blob=True)


def test_the_tree_is_complete(artifact):
    found = sorted(
        str(p.relative_to(artifact.directory)) for p in artifact.directory.rglob("*") if p.is_file()
    )
    assert found == sorted(
        [
            "CMakeLists.txt",
            "README.md",
            "library.json",
            "ltf.bin",
            "ltf.c",
            "ltf.h",
            "ltf_test_vectors.h",
            "manifest.json",
            "model.npz",
            "arduino/ltf/examples/run/run.ino",
            "arduino/ltf/keywords.txt",
            "arduino/ltf/library.properties",
            "arduino/ltf/src/ltf.c",
            "arduino/ltf/src/ltf.h",
            "arduino/ltf/src/ltf_test_vectors.h",
            "crazyflie/Kbuild",
            "crazyflie/Makefile",
            "crazyflie/README.md",
            "crazyflie/app-config",
            "crazyflie/src/Kbuild",
            "crazyflie/src/ltf_app.c",
            "crazyflie/src/ltf_policy.c",
            "esp-idf/ltf/CMakeLists.txt",
            "esp-idf/ltf/idf_component.yml",
            "zephyr/CMakeLists.txt",
            "zephyr/Kconfig",
            "zephyr/module.yml",
        ]
    )


def test_metadata_names_what_each_tool_requires(artifact):
    root = artifact.directory
    properties = configparser.ConfigParser()
    properties.read_string("[x]\n" + (root / "arduino/ltf/library.properties").read_text())
    assert {
        "name",
        "version",
        "author",
        "maintainer",
        "sentence",
        "paragraph",
        "category",
        "url",
        "architectures",
    } <= set(properties["x"])
    library = json.loads((root / "library.json").read_text())
    assert {"name", "version", "build"} <= set(library)
    assert "kconfig: zephyr/Kconfig" in (root / "zephyr/module.yml").read_text()
    assert "idf_component_register" in (root / "esp-idf/ltf/CMakeLists.txt").read_text()
    config = (root / "crazyflie/app-config").read_text()
    assert "CONFIG_CONTROLLER_OOT=y" in config and "CONFIG_APP_STACKSIZE=350" in config
    text = "".join(
        p.read_text() for p in root.rglob("*") if p.suffix in {".c", ".md", ".txt", ".json", ".h", ".ino"}
    )
    assert "http" not in text and str(root) not in text


def test_what_the_code_says_of_itself_is_the_manifest(artifact, tmp_path):
    if shutil.which("cc") is None:
        pytest.skip("no host C compiler 'cc'")
    main = '#include "ltf.h"\n#include <stdio.h>\nint main(void) { fputs(ltf_info(), stdout); return 0; }\n'
    (tmp_path / "m.c").write_text(main)
    root = str(artifact.directory)
    subprocess.run(["cc", "-I", root, "m.c", f"{root}/ltf.c", "-o", "m"], cwd=tmp_path, check=True)
    said = json.loads(subprocess.run([tmp_path / "m"], check=True, capture_output=True).stdout)
    assert said == {key: artifact.manifest[key] for key in said}
    assert said["obs"]["order"] == "oldest_first" and said["obs"]["period"] == 5
    again = load_artifact(artifact.directory)
    assert again.plan.obs == artifact.plan.obs and again.plan.payload == artifact.plan.payload


@needs_gcc
@needs_unicorn
def test_crazyflie_app_compiles_with_werror_and_keeps_its_bits(artifact, tmp_path):
    for name, text in STUBS.items():
        (tmp_path / name).write_text(text)
    where = ["-I", str(tmp_path), "-I", str(artifact.directory)]
    for source in ("ltf_app.c", "ltf_policy.c"):
        path = artifact.directory / "crazyflie/src" / source
        for extra in ([], ["-O0", "-Wconversion"]):
            command = [
                "arm-none-eabi-gcc",
                *CRAZYFLIE,
                *extra,
                *where,
                "-c",
                str(path),
                "-o",
                str(tmp_path / "o.o"),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0 and not done.stderr, done.stderr
    core = CORES["cortex-m4"]
    flags = [
        flag for flag in CRAZYFLIE if not flag.startswith(("-mcpu", "-mthumb", "-mfloat", "-mfpu", "-Werror"))
    ]
    image = build_image(artifact.plan, artifact.directory, "gcc", core, tmp_path / "b", flags=flags)
    result, detail, _, _ = run_unicorn(
        artifact.plan, read_elf(image), core, expected_of(artifact.plan, vectors=4, steps=12)
    )
    assert result == "equal", detail


@needs_cc
def test_cmake_and_cpp_users_can_link_it(artifact, tmp_path):
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    (tmp_path / "CMakeLists.txt").write_text(
        f"cmake_minimum_required(VERSION 3.13)\nproject(app C CXX)\n"
        f"add_subdirectory({artifact.directory} ltf)\n"
        "add_executable(app main.cpp)\ntarget_link_libraries(app ltf)\n"
    )
    (tmp_path / "main.cpp").write_text(
        '#include "ltf.h"\nstatic ltf_state_t s;\nint main() { return static_cast<int>(ltf_selftest(&s)); }\n'
    )
    subprocess.run(["cmake", "-S", ".", "-B", "b"], cwd=tmp_path, check=True, capture_output=True)
    subprocess.run(["cmake", "--build", "b"], cwd=tmp_path, check=True, capture_output=True)
    assert subprocess.run([tmp_path / "b/app"], check=False).returncode == 0


@needs_gcc
@pytest.mark.parametrize("dtype", ["f32", "w16", "i16", "w8"])
def test_no_warning_on_any_arm_core(tmp_path, dtype):
    obs, action = preset("rl-tools")
    samples = observations(np.random.default_rng(0), 64, 146)
    how = {"samples": samples, "max_error": 1.0} if dtype == "w8" else {}
    made = export_policy(
        actor(), tmp_path, name="p", dtype=dtype, obs=obs, action=action, packages=("plain",), **how
    )
    for core in CORES.values():
        if not core.gcc:
            continue
        command = [
            "arm-none-eabi-gcc",
            *core.gcc,
            "-std=c99",
            "-O2",
            "-Werror",
            *WARNINGS,
            "-c",
            "p.c",
            "-o",
            "p.o",
        ]
        done = subprocess.run(command, cwd=made.directory, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_packages_can_be_chosen():
    assert set(PACKAGES) == {"plain", "cmake", "arduino", "platformio", "zephyr", "esp-idf", "crazyflie"}


BUILD_TREES = """\
cmake_minimum_required(VERSION 3.13)
project(app C)
add_compile_options(-Os -std=gnu11 -Wall -Wextra -Wconversion -Werror)
set(CONFIG_LTF_POLICY y)
function(zephyr_include_directories)
  include_directories(${ARGN})
endfunction()
function(zephyr_library)
endfunction()
function(zephyr_library_sources)
  add_library(zephyr_ltf STATIC ${ARGN})
endfunction()
function(idf_component_register)
  cmake_parse_arguments(A "" "" "SRCS;INCLUDE_DIRS" ${ARGN})
  add_library(idf_ltf STATIC ${A_SRCS})
  target_include_directories(idf_ltf PUBLIC ${A_INCLUDE_DIRS})
endfunction()
add_subdirectory(@ROOT@/zephyr zephyr)
add_subdirectory(@ROOT@/esp-idf/ltf idf)
"""

ARDUINO_H = """\
#pragma once
#include <stdint.h>
struct SerialPort { void begin(long) {} template <class T> void println(T) {} };
static SerialPort Serial;
inline unsigned long micros() { return 0; }
"""


@needs_cc
def test_zephyr_and_esp_idf_build_files_name_what_is_there(artifact, tmp_path):
    """Both build files run in CMake against our own functions of the documented names."""
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    text = BUILD_TREES.replace("@ROOT@", str(artifact.directory))
    (tmp_path / "CMakeLists.txt").write_text(text)
    subprocess.run(["cmake", "-S", ".", "-B", "b"], cwd=tmp_path, check=True, capture_output=True)
    done = subprocess.run(
        ["cmake", "--build", "b"], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert {p.name for p in tmp_path.rglob("*.a")} == {"libzephyr_ltf.a", "libidf_ltf.a"}


@needs_cc
def test_arduino_and_platformio_trees_compile_without_a_warning(artifact, tmp_path):
    if shutil.which("c++") is None:
        pytest.skip("no host C++ compiler 'c++'")
    (tmp_path / "Arduino.h").write_text(ARDUINO_H)
    library = artifact.directory / "arduino/ltf"
    warn = ["-Os", "-Wall", "-Wextra", "-Werror"]
    names = json.loads((artifact.directory / "library.json").read_text())["build"]
    sources = [library / "src/ltf.c", artifact.directory / names["srcDir"] / names["srcFilter"][2:-1]]
    for source in sources:
        subprocess.run(["cc", "-std=gnu11", *warn, "-c", source, "-o", tmp_path / "o.o"], check=True)
    sketch = ["-x", "c++", "-std=gnu++17", "-include", "Arduino.h", library / "examples/run/run.ino"]
    command = ["c++", *warn, "-I", tmp_path, "-I", library / "src", *sketch, "-fsyntax-only"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Runs the app against the stubs: a line per call with the heading's observation and the forces.
_FLY = """
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
#include "../crazyflie/src/ltf_app.c"
#include "../ltf.c"
static float volts = 4.0f;
float pmGetBatteryVoltage(void) { return volts; }
void vTaskDelay(const TickType_t ticks) { (void)ticks; }
uint64_t usecTimestamp(void) { return 0; }
void controllerPidInit(void) {}
bool controllerPidTest(void) { return true; }
void controllerPid(control_t *c, const setpoint_t *s, const sensorData_t *n, const state_t *t, const stabilizerStep_t k)
{ (void)c; (void)s; (void)n; (void)t; (void)k; }
int main(int argc, char **argv)
{
  setpoint_t set; sensorData_t sensors; state_t state; control_t control;
  int i, k;
  (void)argc;
  memset(&set, 0, sizeof set); memset(&sensors, 0, sizeof sensors); memset(&state, 0, sizeof state);
  state.attitudeQuaternion.w = (float)atof(argv[1]); state.attitudeQuaternion.z = (float)atof(argv[2]);
  state.position.x = (float)atof(argv[3]); state.position.y = (float)atof(argv[4]);
  state.velocity.x = state.position.x; state.velocity.y = state.position.y;
  set.attitude.yaw = (float)atof(argv[5]); set.mode.yaw = argv[6][0] == 'a' ? modeAbs : modeDisable;
  if (argv[6][0] == 'v') { set.mode.yaw = modeVelocity; set.attitudeRate.yaw = set.attitude.yaw; }
  if (argv[6][0] == 'q') { set.mode.quat = modeAbs; set.attitudeQuaternion = state.attitudeQuaternion; }
  controllerOutOfTreeInit(); enable = 1; warmupMs = 0;
  for (k = 0; k < 4; k++) controllerOutOfTree(&control, &set, &sensors, &state, (stabilizerStep_t)k);
  for (i = 0; i < 18; i++) printf("%.7g ", (double)observed[i]);
  for (i = 0; i < 4; i++) printf("%.7g %.7g ", (double)action[i], (double)control.normalizedForces[i]);
  return control.controlMode == controlModeForce ? 0 : 1;
}
"""


def flown(directory, *words: object, flags: tuple[str, ...] = ()) -> np.ndarray:
    """Return what the app observed (18) and its actions beside its forces (4 pairs), by the host's compiler."""
    where = directory / "fly"
    where.mkdir(exist_ok=True)
    for name, text in STUBS.items():
        (where / name).write_text(text)
    (where / "fly.c").write_text(_FLY)
    command = [
        "cc",
        "-O1",
        "-std=gnu11",
        *flags,
        "-I",
        str(where),
        "-I",
        str(directory),
        "fly.c",
        "-o",
        "fly",
        "-lm",
    ]
    subprocess.run(command, cwd=where, check=True, capture_output=True)
    said = subprocess.run(
        [where / "fly", *map(str, words)], check=True, capture_output=True, text=True
    ).stdout
    return np.array(said.split(), float)


@needs_cc
@pytest.mark.parametrize("mode", ["a", "q"])
def test_the_app_flies_a_yaw_set_point_as_the_yaw_it_was_trained_to_hold(artifact, mode):
    """At 70 degrees with an error ahead, the policy sees what it sees at 0 degrees; without the set-point it does not."""
    turn = np.radians(70.0)
    place = (np.cos(turn) * 0.3, np.sin(turn) * 0.3)
    straight = flown(artifact.directory, 1.0, 0.0, 0.3, 0.0, 0.0, "d")
    turned = flown(artifact.directory, np.cos(turn / 2), np.sin(turn / 2), *place, 70.0, mode)
    np.testing.assert_allclose(turned, straight, atol=1e-5)
    ignored = flown(artifact.directory, np.cos(turn / 2), np.sin(turn / 2), *place, 70.0, "d")
    assert np.abs(ignored[:18] - straight[:18]).max() > 0.5


@needs_cc
def test_a_yaw_rate_is_summed_up(artifact):
    seen = flown(artifact.directory, 1.0, 0.0, 0.0, 0.0, 500.0, "v")  # degrees/s, over two steps of 2 ms
    assert np.degrees(np.arctan2(seen[6], seen[3])) == pytest.approx(-2.0, abs=1e-3)


@needs_cc
def test_forces_follow_the_meaning_of_the_action(artifact, tmp_path):
    """A rotor speed is no thrust: half the speed is a quarter of the thrust."""
    words = (1.0, 0.0, 0.2, -0.1, 0.0, "d")
    for flags in (("-DCONFIG_ENABLE_THRUST_BAT_COMPENSATED",), ()):
        pairs = flown(artifact.directory, *words, flags=flags)[18:].reshape(4, 2)
        thrust = 3.16e-10 * ((pairs[:, 0] + 1) / 2 * 21702.1) ** 2
        grams = thrust * 4 / 9.80665 * 1000
        wanted = thrust / 0.1125 if flags else (0.088 * grams - 0.0006239 * grams**2) / 4.0
        np.testing.assert_allclose(pairs[:, 1], np.clip(wanted, 0, 1), rtol=1e-4, atol=1e-6)
        assert np.abs(pairs[:, 1] - (pairs[:, 0] + 1) / 2).max() > 0.02
    obs, action = preset("learning-to-fly")
    plain = replace(action, meaning="force_fraction")
    made = export_policy(actor(), tmp_path / "f", name="ltf", obs=obs, action=plain, packages=("crazyflie",))
    pairs = flown(made.directory, *words)[18:].reshape(4, 2)
    np.testing.assert_allclose(pairs[:, 1], (pairs[:, 0] + 1) / 2, atol=1e-6)


def test_an_action_of_unknown_meaning_gets_no_app(tmp_path):
    obs, action = preset("learning-to-fly")
    made = export_policy(
        actor(), tmp_path, name="ltf", obs=obs, action=replace(action, meaning="unspecified")
    )
    assert not (made.directory / "crazyflie").exists()
    assert "says neither rpm_fraction nor force_fraction" in (made.directory / "README.md").read_text()
