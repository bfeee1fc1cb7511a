"""`flocklet export` and `flocklet verify` as a person types them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from flocklet.errors import ExportError, UsageError
from flocklet.firmware_export.plan.reference import observations
from flocklet.firmware_export.read.network import Network, seeded_actor
from flocklet.firmware_export.verify import unicorn_engine
from flocklet.onnx_io.model import encode_mlp
from kit.firmware import actor, command, needs_gcc, needs_unicorn


def save(net: Network, path: Path) -> Path:
    nodes, constants, value = [], [], "x"
    for i, layer in enumerate(net.dense):
        constants += [
            numpy_helper.from_array(layer.weight, f"w{i}"),
            numpy_helper.from_array(layer.bias, f"b{i}"),
        ]
        nodes.append(helper.make_node("Gemm", [value, f"w{i}", f"b{i}"], [f"z{i}"], transB=1))
        value = f"y{i}"
        nodes.append(helper.make_node("Tanh", [f"z{i}"], [value]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, net.n_in])
    y = helper.make_tensor_value_info(value, TensorProto.FLOAT, [1, net.n_out])
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [x], [y], constants)), path)
    return path


@pytest.fixture
def policy(tmp_path) -> Path:
    return save(actor("tanh"), tmp_path / "policy.onnx")


@needs_gcc
@needs_unicorn
@pytest.mark.timeout(60)
def test_export_verify_report_and_picture(tmp_path, capsys):
    policy = save(seeded_actor(np.random.default_rng(0), (34, 16, 4)), tmp_path / "policy.onnx")
    spec = tmp_path / "rules.json"
    spec.write_text(json.dumps({"obs": {"state": 18, "history": [4, 4], "period": 2, "clip": 5.0}}))
    out = tmp_path / "out"
    how = ["--spec", spec, "--cc", "gcc", "--engine", "unicorn", "--json"]
    assert command("export", policy, "--out", out, "--verify", "--picture", tmp_path / "p.svg", *how) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["verified"] and {row["result"] for row in report["rows"]} == {"equal"}
    assert "<svg" in (tmp_path / "p.svg").read_text()
    assert json.loads((out / "manifest.json").read_text())["verification"]["sha256"] == report["sha256"]
    assert command("export", "report", out) == 0
    text = capsys.readouterr().out
    assert "model, +-35 %" in text and "verified" in text and "oldest_first" in text
    source = (out / "policy.c").read_text()
    (out / "policy.c").write_text(source.replace("p = p * s", "p = p * s * 1.0001f"))
    (out / "policy.c").write_text(
        (out / "policy.c").read_text().replace("vadd.f32 s11, s11, s6", "vadd.f32 s11, s11, s5")
    )
    assert command("verify", out, "--cc", "gcc", "--engine", "unicorn") == 8
    assert "NOT verified" in capsys.readouterr().out


def test_diff_names_what_differs(policy, tmp_path, capsys):
    assert command("export", policy, "--out", tmp_path / "a", "--preset", "learning-to-fly") == 0
    assert command("export", policy, "--out", tmp_path / "b", "--preset", "rl-tools", "--dtype", "w16") == 0
    capsys.readouterr()
    assert command("export", "diff", tmp_path / "a", tmp_path / "b", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["fields"]["obs.order"] == ["oldest_first", "newest_first"]
    assert data["fields"]["dtype"] == ["f32", "w16"] and not data["same_weights"]


def test_rules_from_a_file_and_refusals(policy, tmp_path):
    spec = tmp_path / "rules.json"
    spec.write_text(json.dumps({"obs": {"state": 18, "history": [32, 4], "period": 2, "clip": 5.0}}))
    assert command("export", policy, "--out", tmp_path / "a", "--spec", spec) == 0
    assert json.loads((tmp_path / "a/manifest.json").read_text())["obs"]["period"] == 2
    spec.write_text(json.dumps({"obs": {"state": 18, "hystory": 1}}))
    with pytest.raises(ExportError, match="hystory"):
        command("export", policy, "--out", tmp_path / "b", "--spec", spec)
    with pytest.raises(ExportError, match="w8 loses much accuracy"):
        command("export", policy, "--out", tmp_path / "b", "--dtype", "w8")
    np.save(tmp_path / "o.npy", observations(np.random.default_rng(0), 32, 146))
    own = ["--observations", tmp_path / "o.npy", "--dtype", "w8", "--preset", "learning-to-fly"]
    with pytest.raises(ExportError, match="above the allowed"):
        command("export", policy, "--out", tmp_path / "b", *own, "--max-error", "1e-6")
    assert not (tmp_path / "b").exists()
    assert command("export", policy, "--out", tmp_path / "b", *own, "--max-error", "0.2") == 0
    with pytest.raises(UsageError, match="takes 2 paths"):
        command("export", "diff", tmp_path / "b")
    with pytest.raises(ExportError, match="holds no export"):
        command("export", "report", tmp_path / "nothing")


@needs_gcc
def test_a_missing_engine_is_exit_7_and_never_verified(policy, tmp_path, capsys, monkeypatch):
    assert command("export", policy, "--out", tmp_path / "a") == 0
    monkeypatch.setattr(unicorn_engine, "available", lambda: False)
    monkeypatch.setattr("flocklet.firmware_export.verify.qemu_engine.available", lambda: False)
    from flocklet.errors import MissingExtra

    with pytest.raises(MissingExtra, match="unicorn"):
        command("verify", tmp_path / "a", "--cc", "gcc")
    assert "verification" not in json.loads((tmp_path / "a/manifest.json").read_text())


@needs_unicorn
@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_relative_directory_verifies_and_flies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compilers run in folders of their own: every path is resolved at the door."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    layers = [(rng.normal(size=(8, 146)), "tanh"), (rng.normal(size=(4, 8)), "tanh")]
    data = [(w.astype(np.float32) * 0.1, np.zeros(len(w), np.float32), act) for w, act in layers]
    Path("policy.onnx").write_bytes(encode_mlp(data))
    words = ["export", "policy.onnx", "--preset", "learning-to-fly", "--name", "pilot", "--out", "pilot"]
    assert command(*words) == 0
    assert command("verify", "pilot", "--cc", "zig", "--engine", "unicorn") == 0
    assert command("fly", "eval", "--firmware", "pilot", "--seeds", "0-0", "--episodes", "1") == 0


@pytest.mark.parametrize("verb", ["export", "verify"])
def test_a_core_that_does_not_exist_is_refused_before_anything_is_written(policy, tmp_path, verb):
    out = tmp_path / "out"
    words = ["export", policy, "--out", out] if verb == "export" else ["verify", out]
    with pytest.raises(UsageError, match="no-such-core: no such core"):
        command(*words, "--target", "no-such-core")
    assert not out.exists()


def test_a_package_that_does_not_exist_is_refused_before_anything_is_written(policy, tmp_path):
    with pytest.raises(ExportError, match="unknown package"):
        command("export", policy, "--out", tmp_path / "out", "--package", "cortex-m4")
    assert not (tmp_path / "out").exists()
