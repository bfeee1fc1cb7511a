"""The templates of the generated C: every mark is filled, and none is filled twice."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from flocklet.errors import ExportError
from flocklet.firmware_export.c.template import fill, named
from kit.firmware import small_plan, write_c


def test_a_mark_too_few_or_too_many_is_refused():
    assert "gap > 7u" in fill("time_gap.c.in", GAP="7")
    with pytest.raises(ExportError, match="@GAP@ is not filled"):
        fill("time_gap.c.in")
    with pytest.raises(ExportError, match="no mark @OTHER@"):
        fill("time_gap.c.in", GAP="7", OTHER="")


def test_the_name_comes_last_and_nothing_else_is_left():
    assert named(fill("time_gap.c.in", GAP="@N@"), "pol").count("pol") == 2
    with pytest.raises(ExportError, match="@LEFT@ is not filled"):
        named("@N@ @LEFT@", "pol")


def test_the_owners_text_is_no_template(tmp_path):
    """A meaning that looks like a mark stays as it is: what is filled in is not looked at again."""
    plan = small_plan(meaning="@N@ @LIMIT@ @ADD@", low=-1.0)
    text = (write_c(plan, tmp_path) / "small.c").read_text()
    assert "@N@ @LIMIT@ @ADD@" in "".join(re.findall(r'^    "(.*?)";?$', text, re.MULTILINE))


def test_templates_hold_c_and_the_python_beside_them_does_not():
    """No function body in the generators: a C formatter and a linter find the C in the templates."""
    room = files("flocklet.firmware_export.c")
    names = [item.name for item in (room / "templates").iterdir()]
    assert len(names) > 60
    assert all(name.endswith((".c.in", ".h.in")) for name in names)
    for item in room.iterdir():
        if item.name.endswith(".py"):
            assert "NOINLINE static void dense" not in item.read_text(), item.name
