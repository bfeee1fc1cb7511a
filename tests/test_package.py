"""The package as people install it: what the wheel holds, what an import loads, how the floors stand."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import pkgutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import flocklet

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = PROJECT["tool"]["setuptools"]["package-dir"]
HEAVY = (
    "numpy",
    "tinygrad",
    "onnxruntime",
    "zeroconf",
    "cryptography",
    "msgpack",
    "rich",
    "asyncio",
    "ssl",
    "sqlite3",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Build the wheel from a copy of what git tracks, as a release does."""
    source = tmp_path_factory.mktemp("source")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout: cannot tell the sources from what lies about")
    for name in tracked.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/", "benchmarks/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        out,
        source,
    ]
    subprocess.run(command, check=True, timeout=100)
    return zipfile.ZipFile(next(out.glob("*.whl")))


@pytest.mark.timeout(120)
def test_wheel_holds_flocklet_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"flocklet", f"flocklet-{flocklet.__version__}.dist-info"}
    assert "flocklet/py.typed" in wheel.namelist()


@pytest.mark.timeout(120)
def test_wheel_holds_every_source_file(wheel: zipfile.ZipFile) -> None:
    expected = set()
    for folder in ("runtime", "models", "discovery", "firmware_export"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                name = path.relative_to(ROOT).as_posix()
                expected.add(
                    name.replace("runtime/", "flocklet/", 1) if folder == "runtime" else f"flocklet/{name}"
                )
    held = {name for name in wheel.namelist() if name.startswith("flocklet/")}
    assert held == expected


def test_every_folder_with_sources_is_listed() -> None:
    found = set()
    for folder in ("runtime", "models", "discovery", "firmware_export"):
        for path in (ROOT / folder).rglob("__init__.py"):
            found.add(path.parent.relative_to(ROOT).as_posix())
    assert found == set(FOLDERS.values())
    assert set(FOLDERS) == set(PROJECT["tool"]["setuptools"]["packages"])


def test_import_loads_nothing_heavy() -> None:
    code = f"import sys, json, flocklet; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(loaded) == []


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, json, flocklet.cli; flocklet.cli.build_parser(); "
        f"print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(loaded) == []


def test_at_most_nine_direct_dependencies() -> None:
    assert len(PROJECT["project"]["dependencies"]) <= 9
    assert PROJECT["project"]["version"] == flocklet.__version__


def test_floors_hold() -> None:
    lint_imports = Path(sys.executable).with_name("lint-imports")
    if not lint_imports.exists() or "__editable__" not in (flocklet.__file__ or ""):
        pytest.skip("needs import-linter and a strict editable install: 'make test' makes both")
    done = subprocess.run([lint_imports, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def modules() -> list[str]:
    names = (m.name for m in pkgutil.walk_packages(flocklet.__path__, "flocklet."))
    return ["flocklet", *sorted(set(names))]


@pytest.mark.parametrize("name", modules())
def test_every_module_lists_its_public_names(name: str) -> None:
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text())
    if not any(
        isinstance(node, ast.ClassDef | ast.FunctionDef | ast.Assign | ast.AnnAssign) for node in tree.body
    ):
        return
    exported = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
    ]
    assert len(exported) == 1, f"{name} has no __all__"
    listed = ast.literal_eval(exported[0])
    assert len(set(listed)) == len(listed)
    if name.split(".")[-1] != "__main__":
        module = importlib.import_module(name)
        assert [n for n in listed if not hasattr(module, n)] == []


def test_every_public_name_of_the_package_exists() -> None:
    for name in flocklet.__all__:
        assert getattr(flocklet, name) is not None


@pytest.mark.timeout(180)
@pytest.mark.slow
def test_strict_editable_install_type_checks() -> None:
    """What `make test` installed is what a person's type checker sees: a link tree with `py.typed`."""
    if "__editable__" not in (flocklet.__file__ or ""):
        pytest.skip("not a strict editable install: 'make test' makes one")
    program = "from flocklet.clock import SystemClock\nreveal_type(SystemClock().time())\n"
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert 'Revealed type is "float"' in done.stdout.replace("builtins.", ""), done.stdout + done.stderr
    wrong = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "-c",
        "from flocklet.clock import SystemClock\nSystemClock(1)\n",
    ]
    assert (
        "Too many arguments"
        in subprocess.run(wrong, capture_output=True, text=True, check=False, cwd="/").stdout
    )


def test_rooms_and_modules_stay_small() -> None:
    """What a newcomer meets: few files at the top, few rooms, modules of a screen or ten."""
    top = [p for p in (ROOT / "runtime").iterdir() if p.is_file()]
    rooms = [p for p in (ROOT / "runtime").iterdir() if p.is_dir() and (p / "__init__.py").exists()]
    assert len(top) <= 6 and len(rooms) <= 16
    folders = ("runtime", "models", "discovery", "firmware_export")
    lines = {p: len(p.read_text().splitlines()) for name in folders for p in (ROOT / name).rglob("*.py")}
    sizes = sorted(lines.values())
    assert sizes[len(sizes) // 2] <= 160
    assert sizes[len(sizes) * 9 // 10] <= 330
    late = {
        "runtime/link/link.py": 440,
        "discovery/mdns.py": 450,
    }  # two that have to shrink, and may not grow
    too_long = {p.relative_to(ROOT).as_posix(): n for p, n in lines.items() if n > 420}
    assert all(n <= late.get(name, 420) for name, n in too_long.items()), too_long
    whole = sum(sizes)
    per_room = {room.name: sum(n for p, n in lines.items() if p.is_relative_to(room)) for room in rooms}
    assert max(per_room.values()) <= 0.12 * whole, per_room
    floors = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    assert len(floors["layers"]) <= 13
