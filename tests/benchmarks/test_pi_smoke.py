"""The Raspberry Pi page and its smoke test, without the emulator: what can be checked cheaply on every machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from flocklet.cli import main, peer

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "pi_smoke.py"


def test_without_its_tools_it_skips_and_says_why(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    environment = {**os.environ, "PATH": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, SCRIPT, "--json", result]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("SKIPPED: ")
    assert "'qemu-aarch64-static' is not installed" in done.stdout
    assert "'debootstrap' is not installed" in done.stdout
    assert "steps passed" not in done.stdout, "nothing was tried, so nothing passed"
    told = json.loads(result.read_text())
    assert told["skipped"]
    assert told["passed"] is False
    assert not (tmp_path / "cache").exists(), "a skipped run leaves nothing behind"


def test_make_runs_it() -> None:
    recipe = re.search(r"^pi-smoke:.*\n\t(.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    assert "benchmarks/pi_smoke.py" in recipe[1]


def test_page_names_every_promise_of_the_set_up() -> None:
    page = (ROOT / "docs" / "raspberry-pi.md").read_text()
    for command in (
        "flocklet init",
        "flocklet invite",
        "flocklet join",
        "flocklet service",
        "flocklet doctor",
    ):
        assert command in page
    python = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert f"Python {python.removeprefix('>=')} or newer" in page
    for link in re.findall(r"\]\(([^)#]+)\)", page):
        assert (ROOT / "docs" / link).exists(), link


def unit(home: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, list[str]]:
    """Return the directives of the unit that is printed."""
    assert main(["--home", str(home), "service", *options]) == 0
    lines = [
        line for line in capsys.readouterr().out.splitlines() if "=" in line and not line.startswith("#")
    ]
    directives: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition("=")
        directives.setdefault(name, []).append(value)
    return directives


# Each of these makes a user's own systemd 252 end the start with 218/CAPABILITIES or 216/GROUP.
FATAL = ("ProtectKernelModules", "ProtectKernelLogs", "ProtectClock", "PrivateDevices", "ProtectHostname")


def test_unit_has_nothing_that_a_user_manager_cannot_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directives = unit(tmp_path, capsys)
    assert not {*FATAL, "CapabilityBoundingSet", "User", "SupplementaryGroups"} & directives.keys()
    assert "AF_NETLINK" in directives["RestrictAddressFamilies"][0].split(), (
        "interfaces are listed through netlink"
    )
    assert "MemoryDenyWriteExecute" not in directives, "compiled kernels are loaded"
    assert directives["ReadWritePaths"] == [f"-{tmp_path} /tmp"]


@pytest.mark.parametrize(
    ("settings", "may"),
    [
        ({"user/max_user_namespaces": "15000"}, True),
        ({"user/max_user_namespaces": "15000", "kernel/unprivileged_userns_clone": "1"}, True),
        ({"user/max_user_namespaces": "0"}, False),
        ({"user/max_user_namespaces": "15000", "kernel/unprivileged_userns_clone": "0"}, False),
        ({"user/max_user_namespaces": "15000", "kernel/apparmor_restrict_unprivileged_userns": "1"}, False),
        ({}, False),
    ],
)
def test_private_users_only_where_users_may_make_namespaces(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str],
    may: bool,
) -> None:
    for name, value in settings.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{value}\n")
    answer = peer._users_may_make_namespaces(tmp_path)
    assert answer is may
    monkeypatch.setattr(peer, "_users_may_make_namespaces", lambda: answer)
    assert ("PrivateUsers" in unit(tmp_path, capsys)) is may


def test_unit_quotes_what_systemd_would_read_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "my $HOME 100%"
    directives = unit(home, capsys, "--port", "4710")
    command = directives["ExecStart"][0]
    assert f'"{tmp_path}/my $$HOME 100%%"' in command
    assert command.endswith("up --port 4710")
    assert directives["ReadWritePaths"] == [f'"-{tmp_path}/my $HOME 100%%" /tmp']
