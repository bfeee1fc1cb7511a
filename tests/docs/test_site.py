"""The site that `make docs` builds: its pages, its links, and a reference that knows every argument."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import flocklet

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])


def test_the_reference_lists_the_face() -> None:
    listed = re.findall(r"^::: flocklet\.(\w+)$", (ROOT / "docs/reference.md").read_text(), re.MULTILINE)
    assert sorted([*listed, "__version__"]) == sorted(flocklet.__all__)


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert listed == {path.name for path in (ROOT / "docs").glob("*.md")}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_of_a_page_leads_somewhere(path: Path) -> None:
    text = re.sub(r"(?ms)^```.*?^```", "", path.read_text())
    targets = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    missing = [link for link in targets if link and "://" not in link and not (path.parent / link).exists()]
    assert missing == []


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_the_site_is_built_and_holds_every_verb(tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None:
        pytest.skip("the extra 'docs' is not installed: 'make docs' does it")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site" / "reference" / "index.html").read_text()
    for anchor in (
        "flocklet.Node.search",
        "flocklet.Node.import_ratings",
        "flocklet.Hit",
        "flocklet.MissingExtra",
    ):
        assert f'id="{anchor}"' in page, anchor
    assert "Whose opinion it is." in page, "the arguments of a verb are told"
    assert (tmp_path / "site" / "add-an-event" / "index.html").exists()
