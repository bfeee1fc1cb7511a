"""Settings: a flag beats the environment, that beats the file of the home, that beats the default; each says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flocklet.cli import main
from flocklet.errors import ConfigError, UsageError
from flocklet.node.settings import SETTINGS, Origin, resolve, write_file


def shown(home: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    capsys.readouterr()
    assert main(["--home", str(home), "config", "show", "--json"]) == 0
    return {row["name"]: row for row in json.loads(capsys.readouterr().out)["settings"]}


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    found = resolve(path, {}, {})["port"]
    assert (found.value, found.origin, found.where) == (0, Origin.DEFAULT, "")
    path.write_text("port = 4711\n")
    found = resolve(path, {}, {})["port"]
    assert (found.value, found.origin, found.where) == (4711, Origin.FILE, str(path))
    found = resolve(path, {}, {"FLOCKLET_PORT": "4712"})["port"]
    assert (found.value, found.origin, found.where) == (4712, Origin.ENVIRONMENT, "FLOCKLET_PORT")
    found = resolve(path, {"port": 4713}, {"FLOCKLET_PORT": "4712"})["port"]
    assert (found.value, found.origin, found.where) == (4713, Origin.FLAG, "--port")


def test_show_names_every_setting_and_its_origin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOCKLET_MDNS", "false")
    assert main(["--home", str(tmp_path), "config", "set", "gossip_s", "30"]) == 0
    rows = shown(tmp_path, capsys)
    assert {setting.name for setting in SETTINGS} | {"home"} <= set(rows)
    assert (rows["home"]["value"], rows["home"]["origin"]) == (str(tmp_path), "flag")
    assert (rows["mdns"]["value"], rows["mdns"]["origin"]) == (False, "environment")
    assert (rows["gossip_s"]["value"], rows["gossip_s"]["origin"]) == (30.0, "file")
    assert (rows["port"]["value"], rows["port"]["origin"]) == (0, "default")


def test_set_keeps_comments_and_the_other_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.toml"
    path.write_text('# mine\nport = 1 # old\npeer = ["a:1"]\n')
    write_file(path, "port", "4710")
    assert path.read_text() == '# mine\nport = 4710\npeer = ["a:1"]\n'
    write_file(path, "peer", 'b:2, "c:3"')
    assert resolve(path, {}, {})["peer"].value == ("b:2", '"c:3"')
    assert main(["--home", str(tmp_path), "config", "set", "port", "--undo"]) == 0
    assert "port is 0 (default)" in capsys.readouterr().out
    assert "# mine" in path.read_text()


@pytest.mark.parametrize(
    "words", [("port", "x"), ("port", "70000"), ("gossip_s", "nan"), ("gossip_s", "-1"), ("mdns", "yes"), ("colour", "1"),
              ("port",), ("port", "1", "--undo"), ("peer", "")]
)  # fmt: skip
def test_nonsense_is_refused_and_nothing_is_written(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.toml"
    path.write_text("port = 9\n")
    code = main(["--home", str(tmp_path), "config", "set", *words])
    err = capsys.readouterr().err
    if words == ("peer", ""):  # an empty list is a list
        assert code == 0
    else:
        assert code == 2
        assert len(err.strip().splitlines()) == 1
        assert path.read_text() == "port = 9\n"
    assert [one.name for one in tmp_path.glob(".*")] == []


@pytest.mark.parametrize(
    "text", ["port = [", "port = true", "colour = 1", "port = -1", "peer = [1]", "mdns = 0", "gossip_s = inf"]
)
def test_a_bad_file_is_one_line_and_stays_as_it_is(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    for words in (["config", "show"], ["config", "set", "port", "1"], ["up"]):
        assert main(["--home", str(tmp_path), *words]) == 3
        err = capsys.readouterr().err
        assert "config.toml" in err
        assert len(err.strip().splitlines()) == 1
    assert path.read_text() == text


def test_a_file_in_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"port = 1 # \xff\n")
    with pytest.raises(ConfigError, match="no TOML"):
        resolve(tmp_path / "config.toml", {}, {})


def test_what_set_cannot_mend_it_leaves_alone(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    text = 'peer = [\n  "a:1",\n]\n'
    path.write_text(text)
    with pytest.raises(ConfigError, match="cannot change"):
        write_file(path, "peer", "b:2")
    assert path.read_text() == text


def test_a_bad_variable_and_a_bad_flag_name_themselves(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="FLOCKLET_PORT is 'x'"):
        resolve(tmp_path / "none", {}, {"FLOCKLET_PORT": "x"})
    with pytest.raises(UsageError, match="--port is 70000"):
        resolve(tmp_path / "none", {"port": 70000}, {})
