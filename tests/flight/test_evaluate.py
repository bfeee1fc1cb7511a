"""The evaluator is not fooled, repeats itself byte for byte, and follows the firmware's order of operations."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from flocklet.cli import fly_files as hangar
from flocklet.cli import main
from flocklet.errors import ConfigError, ExportError, VerificationError
from flocklet.models.flight.judge.evaluate import figure_eights, hover
from flocklet.models.flight.judge.verdict import judge
from flocklet.models.flight.policy import Policy, fast_tanh
from flocklet.models.flight.sim.dynamics import CRAZYFLIE
from flocklet.models.flight.sim.environment import DT_S, NOISE, advance, rotation
from flocklet.models.flight.sim.figure_eight import FigureEight
from flocklet.models.flight.sim.vehicle import L2F_2025, NAMED, hover_action, parse, stack, thrust_to_weight
from flocklet.plots.canvas import canvas_for
from flocklet.plots.flight import draw_curve, draw_flights
from flocklet.plots.flight_replay import replay_page
from kit.firmware import actor, needs_gcc, needs_unicorn
from kit.pilots import Constant, Pilot, Swapped

QUICK = {"seeds": (0, 1), "periods_s": (1.5,)}


def test_a_pilot_that_can_fly_is_told_from_those_that_cannot():
    good = hover(Pilot(), CRAZYFLIE, seeds=(0, 1), episodes=10).summary()
    assert good["survival"] >= 0.6
    assert good["error_m"] < 0.3
    for broken in (Constant(0.0), Constant(0.334), Swapped(Pilot(), (1, 0, 2, 3))):
        bad = hover(broken, CRAZYFLIE, seeds=(0, 1), episodes=10).summary()
        assert bad["survival"] == 0
        assert bad["error_m"] is None
        assert bad["settled"] == 0
        lost = figure_eights(broken, CRAZYFLIE, seeds=(0,), periods_s=(3.5,))[3.5].summary()
        assert lost["alive"] == 0
        assert lost["rmse_m"] is None


def test_a_pilot_made_for_one_vehicle_flies_another_worse():
    options = {"seeds": (0,), "periods_s": (1.5,), "scale": 0.1, "is_noisy": False}
    own = figure_eights(Pilot(L2F_2025), L2F_2025, **options)[1.5].summary()
    other = figure_eights(Pilot(CRAZYFLIE), L2F_2025, **options)[1.5].summary()
    assert own["rmse_m"] < 0.2
    assert other["rmse_m"] is None or other["rmse_m"] > 2 * own["rmse_m"]


def test_the_same_seeds_give_the_same_document():
    policy = Policy.fresh(np.random.default_rng(0))
    documents = [
        json.dumps(judge(policy, CRAZYFLIE, episodes=3, with_fast=False, **QUICK).to_json()) for _ in range(2)
    ]
    assert documents[0] == documents[1]
    other = judge(policy, CRAZYFLIE, episodes=3, with_fast=False, seeds=(2, 3), periods_s=(1.5,))
    assert json.dumps(other.to_json()) != documents[0]
    found = json.loads(documents[0])
    assert set(found["hover"]) >= {"survival", "error_m", "p95_m", "settled", "target_return"}
    assert set(found["figure8"]["1.5"]) >= {"alive", "rmse_m", "rmse_xy_m"}
    assert found["vehicle"] == "vehicle"


def test_an_episode_is_judged_the_same_among_others():
    alone = hover(Pilot(), CRAZYFLIE, seeds=(1,), episodes=4)
    among = hover(Pilot(), CRAZYFLIE, seeds=(0, 1), episodes=4).of_seed(1)
    np.testing.assert_allclose(among.returns, alone.returns, rtol=1e-3, atol=0.1)
    np.testing.assert_array_equal(among.lost, alone.lost)


def test_the_500_hz_rule_is_the_firmwares_order_of_operations():
    """A straight transcription, one flight, one operation at a time, beside the vectorised evaluator: bit for bit."""
    f, path = np.float32, FigureEight(1.5)
    layers = actor(seed=2).layers
    policy = Policy(tuple((x.weight, x.bias, "fast_tanh") for x in layers))
    track = figure_eights(
        policy,
        CRAZYFLIE,
        seeds=(4,),
        periods_s=(1.5,),
        is_firmware_rate=True,
        record=True,
        is_native=False,
    )[1.5]
    rng = np.random.default_rng((4, 1500))
    body = np.zeros((1, 17), f)
    body[0, 3], body[0, 13:] = 1, 10851
    memory = np.zeros((32, 4), f)
    force = np.zeros((1, 3), f)
    for tick in range(600):
        place, speed = path.at(tick * DT_S / 5)
        seen = np.concatenate(
            [
                np.clip(body[0, 0:3] - place.astype(f), f(-0.6), f(0.6)),
                rotation(body[:, 3:7])[0],
                np.clip(body[0, 7:10] - speed.astype(f), f(-2), f(2)),
                body[0, 10:13],
            ]
        )
        seen += rng.standard_normal(18, dtype=f) * np.array(NOISE, f)
        action = policy(np.concatenate([seen, memory.reshape(-1)])[None])[0]
        sub = tick % 5
        if sub == 0:
            for j in range(31):
                memory[j] = memory[j + 1]
        memory[31] = (memory[31] * f(sub) + action) / f(sub + 1)
        body = advance(body, np.clip(action, -1, 1)[None], CRAZYFLIE, force, force, DT_S / 5)
        recorded = track.flight.bodies[tick, 0]
        if np.isnan(recorded).any():
            break
        assert body[0].tobytes() == recorded.astype(f).tobytes(), tick
    assert tick > 100


def test_the_target_velocity_is_the_derivative_of_the_target():
    for period, scale in ((5.5, 1.0), (3.5, 0.7)):
        path = FigureEight(period, scale)
        times = np.linspace(0.05, path.duration_s, 400)
        times = times[np.abs(times - 2) > 1e-3]
        slope = (path.at(times + 1e-5)[0] - path.at(times - 1e-5)[0]) / 2e-5
        np.testing.assert_allclose(slope, path.at(times)[1], atol=1e-6)
    fastest = np.linalg.norm(FigureEight(5.5).at(np.linspace(2, 13, 2000))[1], axis=1).max()
    assert fastest == pytest.approx(1.62, abs=0.01)
    start, speed = FigureEight().at(0.0)
    np.testing.assert_allclose([start, speed], 0, atol=1e-12)


def test_a_policy_survives_the_trip_through_onnx_and_its_vector(tmp_path):
    policy = Policy.fresh(np.random.default_rng(7))
    vector = policy.vector()
    assert vector.shape == (13828,)
    file = tmp_path / "policy.onnx"
    file.write_bytes(policy.to_onnx())
    seen = np.random.default_rng(0).normal(0, 0.5, (5, 146)).astype(np.float32)
    for twin in (hangar.read_policy(file), Policy.from_onnx(file.read_bytes()), Policy.from_vector(vector)):
        np.testing.assert_array_equal(twin(seen), policy(seen))
    np.testing.assert_array_equal(vector[146 * 64 : 146 * 64 + 64], policy.layers[0][1])
    assert np.abs(np.tanh(seen) - fast_tanh(seen)).max() > 0.01


def test_files_that_hold_no_policy_are_refused(tmp_path):
    from flocklet.onnx_io.model import encode_mlp

    for shape in ((4, 18), (3, 146)):
        file = tmp_path / "wrong.onnx"
        file.write_bytes(encode_mlp([(np.zeros(shape, np.float32), np.zeros(shape[0], np.float32), "tanh")]))
        with pytest.raises(ExportError, match=r"146|not 4"):
            hangar.read_policy(file)
    bad = Policy.fresh(np.random.default_rng(0)).vector()
    bad[5] = np.nan
    with pytest.raises(ExportError, match="not finite"):
        Policy.from_vector(bad)
    (tmp_path / "wrong.onnx").write_bytes(b"no model")
    with pytest.raises(ExportError):
        hangar.read_policy(tmp_path / "wrong.onnx")


MINE = """name = "mine"
mass_kg = 0.031
inertia_kg_m2 = [1.4e-5, 1.4e-5, 2.5e-5]
rotor_x_m = [0.03, -0.03, -0.03, 0.03]
rotor_y_m = [-0.03, -0.03, 0.03, 0.03]
yaw_sign = [-1, 1, -1, 1]
thrust_n = [0.0, 0.0, 0.16]
torque_per_thrust_m = 0.006
lag_up_s = 0.05
lag_down_s = 0.07
command_min = 0.0
command_max = 1.0
"""


def test_a_vehicle_file_is_read(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(MINE)
    name, vehicle = hangar.read_vehicle(str(file))
    assert (name, vehicle.mass, vehicle.lag_down) == ("mine", 0.031, 0.07)
    assert thrust_to_weight(vehicle) == pytest.approx(0.64 / (0.031 * 9.81))
    file.write_text('base = "crazyflie"\nmass_kg = 0.035\n')
    assert hangar.read_vehicle(str(file))[1].inertia == CRAZYFLIE.inertia


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("0.031", "-0.031"), "mass_kg is -0.031"),
        (("[0.0, 0.0, 0.16]", "[0.0, 0.0, 0.05]"), "0.66 times its weight"),
        (("1.4e-5, 1.4e-5", "inf, 1.4e-5"), "no finite number"),
        (("1.4e-5, 1.4e-5", "nan, 1.4e-5"), "no finite number"),
        (("1.4e-5, 1.4e-5, 2.5e-5", "1.4e-5, 1.4e-5, 9e-5"), "no body has"),
        (("[-1, 1, -1, 1]", "[-1, 1, -1]"), "list of 4 numbers"),
        (("[-1, 1, -1, 1]", "[1, 1, 1, 1]"), "cannot turn it"),
        (("[-1, 1, -1, 1]", '["a", 1, 1, 1]'), "no number"),
        (("mass_kg", "masskg"), "unknown key 'masskg'"),
        (("lag_up_s = 0.05\n", ""), "lacks the key 'lag_up_s'"),
        (("lag_up_s = 0.05", "lag_up_s = 0.0"), "lag_up_s is 0 s"),
        (("command_max = 1.0", "command_max = 0.0"), "below command_max"),
        (("mass_kg = 0.031", "mass_kg = [0.031]"), "no number"),
        (('name = "mine"', 'base = "boeing"'), "base is 'boeing'"),
        (('name = "mine"', "name = "), "no TOML file"),
    ],
)
def test_unphysical_vehicles_are_refused_in_one_line(tmp_path, change, said, capsys):
    assert change[0] in MINE
    file = tmp_path / "mine.toml"
    file.write_text(MINE.replace(change[0], change[1], 1))
    with pytest.raises(ConfigError, match=said) as caught:
        hangar.read_vehicle(str(file))
    assert "\n" not in str(caught.value)
    policy = tmp_path / "p.onnx"
    policy.write_bytes(Policy.fresh(np.random.default_rng(0)).to_onnx())
    assert main(["fly", "eval", str(policy), "--vehicle", str(file)]) == 3
    assert capsys.readouterr().err.startswith("flocklet: ")


def test_named_vehicles_are_those_of_the_papers():
    assert hover_action(CRAZYFLIE) == pytest.approx(0.334, abs=5e-4)
    assert hover_action(L2F_2025) == pytest.approx(0.612, abs=5e-4)
    np.testing.assert_allclose(hover_action(stack(list(NAMED.values()))), [0.334, 0.612], atol=1e-3)
    assert thrust_to_weight(CRAZYFLIE) == pytest.approx(2.25, abs=5e-3)
    assert thrust_to_weight(L2F_2025) == pytest.approx(1.47, abs=5e-3)
    with pytest.raises(ConfigError):
        parse({})


def test_the_command_prints_a_table_and_one_document(tmp_path, capsys):
    policy = tmp_path / "p.onnx"
    policy.write_bytes(Policy.fresh(np.random.default_rng(0)).to_onnx())
    words = ["fly", "eval", str(policy), "--seeds", "0,1", "--episodes", "4"]
    pictures = ["--plot", str(tmp_path / "p.png"), "--replay", str(tmp_path / "p.html")]
    assert main([*words, "--json", *pictures]) == 0
    first = capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    assert capsys.readouterr().out == first
    found = json.loads(first)
    assert set(found["figure8"]) == set(found["figure8_500hz"]) == {"15", "5.5", "3.5"}
    assert found["vehicle"] == "crazyflie"
    assert found["hover"]["episodes"] == 4
    assert main([*words, "--vehicle", "l2f-2025", "--no-500hz"]) == 0
    assert "l2f-2025" in capsys.readouterr().out
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "p.html").read_text()
    assert "http" not in page
    assert "NaN" not in page


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], 2),
        (["POLICY", "--seeds", "x"], 2),
        (["POLICY", "--seeds", "1,1"], 2),
        (["POLICY", "--episodes", "3"], 2),
        (["POLICY", "--plot", "out.jpg"], 2),
        (["POLICY", "--firmware", "DIR"], 2),
        (["POLICY", "--vehicle", "boeing"], 3),
        (["NOTHING"], 8),
        (["--firmware", "DIR"], 8),
    ],
)
def test_senseless_commands_get_one_line(tmp_path, words, code, capsys):
    policy = tmp_path / "p.onnx"
    policy.write_bytes(Policy.fresh(np.random.default_rng(0)).to_onnx())
    filled = [str(policy) if word == "POLICY" else word for word in words]
    assert main(["fly", "eval", *filled]) == code
    err = capsys.readouterr().err
    assert err.startswith("flocklet: ")
    assert len(err.strip().splitlines()) == 1


def test_pictures_are_drawn_from_a_flight(tmp_path):
    verdict = judge(Pilot(), CRAZYFLIE, episodes=2, with_fast=False, record=2, seeds=(0,), periods_s=(2.0,))
    draw_flights(tmp_path / "a.svg", verdict)
    draw_curve(tmp_path / "c.svg", {"survival": {"seed 0": [(0, 0.1), (10, 0.9)]}}, x="steps", title="t")
    text = (tmp_path / "a.svg").read_text()
    assert text.count("<line") > 300
    assert "figure-eight: error" in text
    assert "seed 0" in (tmp_path / "c.svg").read_text()
    assert '"name":"hover"' in replay_page(verdict)
    canvas = canvas_for(".png", 40, 20)
    canvas.text(2, 2, "V", (0, 0, 0))
    assert canvas.encode().startswith(b"\x89PNG")


def test_the_target_of_a_lost_flight_is_drawn_to_its_end():
    for pilot in (Constant(0.0), Policy.fresh(np.random.default_rng(0))):
        track = figure_eights(pilot, CRAZYFLIE, seeds=(0,), periods_s=(2.0,), record=True)[2.0]
        assert track.lost.all()
        flight, path = track.flight, FigureEight(2.0)
        assert np.isnan(flight.bodies[-1]).all()
        want = path.at((np.arange(len(flight.targets))[:, None] + 1) * DT_S)[0]
        np.testing.assert_allclose(flight.targets, want, atol=1e-12)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    from flocklet.firmware_export.export import export_policy
    from flocklet.firmware_export.read.semantics import preset

    obs, action = preset("learning-to-fly")
    folder = tmp_path_factory.mktemp("firmware") / "x"
    export_policy(actor(), folder, name="ltf", obs=obs, action=action, packages=("plain",))
    return folder


@needs_gcc
@needs_unicorn
def test_the_emulated_firmware_flies_bit_for_bit(exported):
    verdict = hangar.fly_firmware(exported, CRAZYFLIE, periods_s=(0.2,), seconds=0.2)
    found = verdict.to_json()["firmware"]
    assert found["is_same_bits"]
    assert found["ticks"] > 100


@needs_gcc
@needs_unicorn
def test_firmware_that_flies_otherwise_is_found_out(exported, monkeypatch):
    """The control: one bit of one action."""
    from flocklet.firmware_export.verify.processor_in_loop import Firmware

    right = Firmware.__call__

    def wrong(self, seen):
        given = right(self, seen).copy()
        if self.ticks == 20:
            given[0] = np.nextafter(given[0], np.float32(2))
        return given

    monkeypatch.setattr(Firmware, "__call__", wrong)
    with pytest.raises(VerificationError, match="bit for bit"):
        hangar.fly_firmware(exported, CRAZYFLIE, periods_s=(0.2,), seconds=0.2)


def trained() -> Policy:
    """A policy that flies other vehicles, from the environment's setting: none is kept in the repository."""
    file = os.environ.get("FLOCKLET_FLIGHT_POLICY")
    if not file or not Path(file).is_file():
        pytest.skip("FLOCKLET_FLIGHT_POLICY names no ONNX file of a policy trained on many vehicles")
    return hangar.read_policy(file)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_trained_policy_flies_in_rotorpy_and_a_wrong_adapter_crashes():
    pytest.importorskip("rotorpy", reason="the package rotorpy is not installed")
    from flocklet.models.flight.judge.rotorpy import Rotorcraft, hover_in_rotorpy

    policy = trained()
    right = hover_in_rotorpy(policy, Rotorcraft(), episodes=3).summary()
    assert right["survival"] == 1
    for wrong in ({"motors": (0, 1, 2, 3)}, {"quaternion": (0, 1, 2, 3)}):
        assert hover_in_rotorpy(policy, Rotorcraft(**wrong), episodes=3).summary()["survival"] == 0
