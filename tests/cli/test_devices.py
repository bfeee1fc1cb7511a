"""The verbs of the flock as a person types them, without a running peer."""

from __future__ import annotations

import io
import json
import sys

import pytest

from flocklet.cli import main
from flocklet.identity.invitation import Invitation


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOCKLET_HOME", str(tmp_path / "home"))
    assert main(["init", "-q"]) == 0
    return tmp_path / "home"


def told(capsys, *words: str):
    capsys.readouterr()
    assert main([*words, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_a_new_flock_has_one_named_device_and_its_code_names_the_next(home, capsys):
    rows = told(capsys, "devices", "list")["devices"]
    assert [row["state"] for row in rows] == ["this device"]
    code = Invitation.parse(told(capsys, "invite")["code"])
    assert len(code.token) == 8 and len(code.root) == 8


def test_a_code_from_standard_input_is_told_to_nobody(home, capsys, tmp_path, monkeypatch):
    code = told(capsys, "invite")["code"]
    monkeypatch.setattr(sys, "stdin", io.StringIO(code + "\n"))
    assert main(["--home", str(tmp_path / "b"), "join", "-"]) == 0
    assert "command line" not in capsys.readouterr().err
    assert main(["--home", str(tmp_path / "c"), "join", code]) == 0
    assert "flocklet join -" in capsys.readouterr().err
    assert main(["--home", str(tmp_path / "b"), "join", code]) == 3
    rows = told(capsys, "--home", str(tmp_path / "b"), "devices", "list")["devices"]
    assert [row["state"] for row in rows] == ["guest"]  # until the inviting device has named it


def test_a_new_secret_puts_nobody_out_and_the_old_code_is_worth_nothing(home, capsys):
    before = Invitation.parse(told(capsys, "invite")["code"])
    told(capsys, "devices", "remove")
    after = Invitation.parse(told(capsys, "invite")["code"])
    assert after.secret != before.secret and after.root == before.root
    assert [row["state"] for row in told(capsys, "devices", "list")["devices"]] == ["this device"]


def test_init_in_an_existing_home_explains_itself_and_leave_makes_room(home, capsys):
    assert main(["init"]) == 3
    line = capsys.readouterr().err
    assert "flocklet leave" in line and line.count("\n") == 1
    identity = told(capsys, "id")["device_id"]
    told(capsys, "leave")
    assert told(capsys, "id")["flock"] == "none"
    assert main(["invite"]) == 3
    assert main(["init", "-q"]) == 0
    assert told(capsys, "id") == {**told(capsys, "id"), "device_id": identity, "flock": "closed"}


def test_a_new_key_is_made_only_for_who_says_yes(home, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(["init", "--rotate"]) == 2
    assert "cannot be taken back" in capsys.readouterr().err
    before = told(capsys, "id")["device_id"]
    assert main(["init", "--rotate", "--yes", "-q"]) == 0
    assert told(capsys, "id")["device_id"] != before


def test_a_device_is_named_by_its_short_id_and_an_unknown_one_is_refused_in_one_line(home, capsys):
    short = told(capsys, "id")["short_id"]
    told(capsys, "devices", "name", short, "kitchen")
    assert told(capsys, "devices", "list")["devices"][0]["name"] == "kitchen"
    assert main(["devices", "remove", "kitchen"]) == 2
    assert "flocklet leave" in capsys.readouterr().err
    assert main(["devices", "remove", "nobody"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_open_flock_only_refuses_here(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FLOCKLET_HOME", str(tmp_path / "home"))
    assert main(["init", "--open", "-q"]) == 0
    other = told(capsys, "--home", str(tmp_path / "b"), "init")["device_id"]
    assert told(capsys, "devices", "remove", other)["is_open"]
    assert "out" in [row["state"] for row in told(capsys, "devices", "list")["devices"]]
    told(capsys, "devices", "back", other, "--here")
    assert "out" not in [row["state"] for row in told(capsys, "devices", "list")["devices"]]


def test_a_damaged_flock_file_is_one_line_and_stays(home, capsys):
    file = home / "flock"
    data = file.read_bytes()
    for cut in (1, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:cut])
        assert main(["devices", "list"]) == 3
        assert capsys.readouterr().err.count("\n") == 1
        assert file.read_bytes() == data[:cut]
    file.write_bytes(data)
    file.chmod(0o644)
    assert main(["devices", "list"]) == 3
    assert "chmod 600" in capsys.readouterr().err
